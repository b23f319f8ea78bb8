"""Connections to PostgreSQL: parameters, connecting, and the sessions of listener and notify()."""
