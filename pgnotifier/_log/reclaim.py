"""Give space back that entries take which every subscription has passed."""

import time
from datetime import timedelta
from typing import Any

import psycopg

INTERVAL = 5.0
"""Seconds between two looks."""
LAST = 60.0
"""The longest interval, while something like pg_dump uses a slot: each try holds readers up."""
RETENTION = timedelta()
"""How long entries are kept, at least."""

_RECLAIM = "SELECT freed, blocked FROM pgnotifier.reclaim(%s)"


class Reclaimer:
    """Calls the schema's function now and then. A reading thread owns it.

    Each reading thread of each process has one. The function itself sees to it that only one
    session at a time does anything.
    """

    def __init__(self, retention: timedelta = RETENTION) -> None:
        """Begin to wait.

        Args:
            retention: How long entries are kept, at least.
        """
        self._retention = retention
        self._interval = INTERVAL
        self._due = time.monotonic() + INTERVAL

    def reclaim(self, connection: psycopg.Connection[Any]) -> int:
        """Truncate what can be truncated, if a look is due; return how many slots that were.

        Args:
            connection: A connection of `Parameters`, not in a transaction.
        """
        if time.monotonic() < self._due:
            return 0
        row = connection.execute(_RECLAIM, (self._retention,)).fetchone()
        assert row is not None
        freed, blocked = row
        self._interval = min(2 * self._interval, LAST) if blocked else INTERVAL
        self._due = time.monotonic() + self._interval
        return int(freed)
