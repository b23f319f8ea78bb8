"""Connections to PostgreSQL: where to connect, how, and what a session of ours needs."""
