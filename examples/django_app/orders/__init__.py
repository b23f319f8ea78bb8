"""The orders app: its rows notify when they change."""
