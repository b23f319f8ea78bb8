"""Durable subscriptions: threads that read the log in the database, and hand over its entries."""
