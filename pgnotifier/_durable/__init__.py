"""Durable subscriptions: what reads the log, and hands it to deliverers."""
