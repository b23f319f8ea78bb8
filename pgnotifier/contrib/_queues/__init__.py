"""What the dispatchers to queues share."""
