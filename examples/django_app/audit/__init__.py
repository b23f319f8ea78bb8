"""The audit: what happened, in a database of its own."""
