"""Reclaim the space of log entries that every subscription has passed."""

import time
from typing import Any

import psycopg

INTERVAL = 5.0
"""Seconds between two attempts to reclaim space."""
LAST = 60.0
"""The longest interval, while something like pg_dump uses a slot: each attempt blocks readers."""

_RECLAIM = "SELECT freed, blocked FROM pgnotifier.reclaim()"


class Reclaimer:
    """Calls the schema's function now and then. A source's thread owns it.

    Each source of each process has one. The function itself makes sure that only one session at a
    time does anything.
    """

    def __init__(self) -> None:
        """Begin with an interval."""
        self._interval = INTERVAL
        self._due = time.monotonic() + INTERVAL

    def reclaim(self, connection: psycopg.Connection[Any]) -> int:
        """Truncate what can be truncated, if an attempt is due; return how many slots that were.

        Args:
            connection: A connection of `Parameters`, not in a transaction.
        """
        if time.monotonic() < self._due:
            return 0
        freed, blocked = reclaim(connection)
        self._interval = min(2 * self._interval, LAST) if blocked else INTERVAL
        self._due = time.monotonic() + self._interval
        return freed


def reclaim(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """Truncate what can be truncated, and apply the limits of subscriptions and of the log.

    Args:
        connection: A connection of `Parameters`, not in a transaction.

    Returns:
        How many slots were truncated, and how many could be, but are in use.
    """
    row = connection.execute(_RECLAIM).fetchone()
    assert row is not None
    return row[0], row[1]
