"""Read the log from a subscription's position on, and move the position, in one transaction.

    with connection.transaction():
        reading = position.read(connection, limit=1000)
        if reading is not None:
            ...  # use reading.entries
            position.save(connection, reading)

The row of the subscription stays locked until the transaction ends, so one session at a time
advances it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pgnotifier._delivery.portions import Row
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.rows import Window

SAVE_INTERVAL = 1.0
"""Seconds between two positions that are saved without anything to deliver in between."""
IDLE_INTERVAL = 60.0
"""The same while nothing at all is published, not even to other channels."""
SEARCH_TIME = 0.5
"""Seconds in which one `read` passes windows without any entry for its channel."""

_TAKE = """
SELECT channel, state, n, done::text, target::text, last_id, is_now, id_hi, newest
FROM pgnotifier.take(%s, %s::int8, %s::pg_snapshot)
"""
_READ = """
SELECT id, at, key, payload, is_rest
FROM pgnotifier.read(%s, %s::pg_snapshot, %s::pg_snapshot, %s, %s)
"""
_SAVE = "SELECT pgnotifier.save(%s, %s::pg_snapshot, %s::pg_snapshot, %s)"


class SubscriptionGoneError(Exception):
    """Somebody has deleted the subscription."""


class ForeignPositionError(Exception):
    """The position is of another server."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One publication, as a subscription reads it."""

    id: int
    published_at: datetime
    key: str | None
    payload: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read in one transaction.

    Attributes:
        entries: In order.
        is_last: Whether nothing more was to be read when this was.
    """

    entries: Sequence[Entry]
    is_last: bool
    window: Window = field(repr=False)
    is_whole: bool = field(repr=False)  # the window has no entries after these


class Position:
    """Where a subscription is, as one reader knows it."""

    def __init__(self, sub):
        """Know nothing yet.

        Args:
            sub: What `subscribe` returned.
        """
        self.sub = sub
        self._session = None
        # Up to `_ahead` there is nothing for the subscription. It is true as long as the position
        # is the one with number `_known`.
        self._known = None
        self._ahead = None
        self._saved_at = time.monotonic()

    def read(self, connection, limit):
        """Lock the subscription, and read its next entries.

        Args:
            connection: A connection in a transaction.
            limit: How many entries to read at most.

        Returns:
            What was read; None if another session advances the subscription now.

        Raises:
            SubscriptionGoneError: There is no such subscription any more.
            ForeignPositionError: The database was copied from another server.
        """
        if self._session is None or self._session.connection is not connection:
            self._session = LogSession(connection)
        until = time.monotonic() + SEARCH_TIME
        while True:
            taken = connection.execute(_TAKE, (self.sub, self._known, self._ahead)).fetchone()
            channel, window = taken[0], Window(*taken[1:])
            if window.state == "busy":
                return None
            if window.state == "gone":
                raise SubscriptionGoneError(self.sub)
            if window.state == "foreign":
                raise ForeignPositionError(self.sub)
            # A statement of its own, so that it sees all that is visible in the target.
            values = (channel, window.done, window.target, window.last_id, limit)
            found = connection.execute(_READ, values).fetchall()
            rows, is_whole = [Row(*one[:4]) for one in found], not found or found[0][-1]
            if is_whole and not rows:
                self._known, self._ahead = window.n, window.target
                if not (window.is_now or window.last_id) and time.monotonic() < until:
                    continue
            entries = [self._entry(row) for row in rows]
            return Reading(entries, is_whole and window.is_now, window, is_whole)

    def save(self, connection, reading, settled=None):
        """Move the position behind what was read, in the same transaction.

        Args:
            connection: The connection of `read`.
            reading: What it returned.
            settled: How many entries, from the first on, are done with. Default: all.
        """
        count = len(reading.entries) if settled is None else settled
        window = reading.window
        if count < len(reading.entries) or not reading.is_whole:
            if not count:
                return
            place, ahead = (window.done, window.target, reading.entries[count - 1].id), None
        else:
            if not count and not self._is_due(window):
                return
            place, ahead = (window.target, None, 0), window.target
        (number,) = connection.execute(_SAVE, (self.sub, *place)).fetchone()
        # If the transaction is rolled back, no position has this number, and nothing is assumed.
        self._known, self._ahead = (number if ahead else None), ahead
        self._saved_at = time.monotonic()

    def _entry(self, row: Row):
        decode = self._session.encoding.decode
        key = None if row.key is None else decode(row.key)
        return Entry(row.id, row.published_at, key, decode(row.payload))

    def _is_due(self, window):
        """Return whether to save that there was nothing to deliver up to here."""
        if window.last_id:  # there was, in this window
            return True
        interval = SAVE_INTERVAL if window.newest > window.id_hi else IDLE_INTERVAL
        return time.monotonic() - self._saved_at >= interval
