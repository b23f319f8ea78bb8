"""Which subscriptions each channel has, and the one writer that changes that."""
