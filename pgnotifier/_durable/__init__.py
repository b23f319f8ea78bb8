"""Durable subscriptions: threads that read the log in the database for them, and hand it over."""
