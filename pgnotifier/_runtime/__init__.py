"""Helpers for all other packages: hooks, locks, clocks, logging, and the life of the process."""
