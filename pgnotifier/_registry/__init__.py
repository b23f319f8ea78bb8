"""The registry of channels and their subscriptions, and its one writer."""
