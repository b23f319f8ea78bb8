"""Read the log from a subscription's position on, and move the position.

    with connection.transaction():
        reading = position.read(connection, limit=1000)
        if reading is not None:
            ...  # dispatch reading.entries
            position.save(connection, reading)

The row of the subscription stays locked until the transaction ends, so one session at a time
advances it. A crash before the end leaves the position where it was: the batch is read again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg

from pgnotifier._log.guard import reanchor
from pgnotifier.errors import ArgumentTypeError

Start = Literal["now", "oldest"] | datetime | int
"""Where a subscription begins: now, at the oldest entry that is kept, at the entries that were
published at a time or later, or at an id."""

SAVE_INTERVAL = 1.0
"""Seconds between two positions that are saved without anything to deliver in between."""
IDLE_INTERVAL = 60.0
"""The same while nothing at all is published, not even to other channels."""
SEARCH_TIME = 0.5
"""Seconds in which one `read` passes windows without any entry for its channel."""

_SUBSCRIBE = (
    "SELECT pgnotifier.subscribe(%s, %s, %s, %s::pg_catalog.int8, %s::pg_catalog.timestamptz)"
)
_SEEK = "SELECT pgnotifier.seek(%s, %s, %s, %s::pg_catalog.int8, %s::pg_catalog.timestamptz)"
_FORGET = "SELECT pgnotifier.forget(%s, %s)"
_TAKE = """
SELECT state, channel, n, done::pg_catalog.text, target::pg_catalog.text, last_id, is_now, id_hi,
    newest
FROM pgnotifier.take(%s, %s::pg_catalog.int8, %s::pg_catalog.pg_snapshot)
"""
_BATCH = """
SELECT id, at, key, payload
FROM pgnotifier.batch(%s, %s::pg_catalog.pg_snapshot, %s::pg_catalog.pg_snapshot, %s, %s)
"""
_SAVE = """
SELECT pgnotifier.save(%s, %s::pg_catalog.pg_snapshot, %s::pg_catalog.pg_snapshot, %s)
"""


class SubscriptionGoneError(Exception):
    """Somebody has deleted the subscription. Internal: the reading thread makes it again."""


class ForeignPositionError(Exception):
    """The position is of another server. Internal: the guard re-anchors it."""


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
        newest: The highest id in the log, or one that was rolled back.
    """

    entries: Sequence[Entry]
    is_last: bool
    newest: int
    done: str = field(repr=False)
    target: str = field(repr=False)
    is_whole: bool = field(repr=False)  # the window has no entries after these
    id_hi: int = field(repr=False)


class Position:
    """Where a subscription is, as one reading thread knows it. That thread owns it."""

    def __init__(self, sub: int) -> None:
        """Know nothing yet.

        Args:
            sub: What `subscribe` returned.
        """
        self.sub = sub
        # Up to `_ahead` there is nothing for the subscription. It is true as long as the position
        # is the one with number `_known`.
        self._known: int | None = None
        self._ahead: str | None = None
        self._saved_at = time.monotonic()

    def read(self, connection: psycopg.Connection[Any], limit: int) -> Reading | None:
        """Lock the subscription, and read its next entries.

        Args:
            connection: A connection of `Parameters`, in a transaction.
            limit: How many entries to read at most.

        Returns:
            What was read; None if another session advances the subscription now.

        Raises:
            SubscriptionGoneError: There is no such subscription any more.
            ForeignPositionError: The database was copied from another server.
        """
        until = time.monotonic() + SEARCH_TIME
        while True:
            row = connection.execute(_TAKE, (self.sub, self._known, self._ahead)).fetchone()
            assert row is not None
            state, channel, n, done, target, last_id, is_now, id_hi, newest = row
            if state == "busy":
                return None
            if state == "gone":
                raise SubscriptionGoneError(self.sub)
            if state == "foreign":
                raise ForeignPositionError(self.sub)
            # A statement of its own, so that it sees all that is visible in the target.
            arguments = (channel, done, target, last_id, limit)
            entries = [Entry(*one) for one in connection.execute(_BATCH, arguments)]
            is_whole = len(entries) < limit
            if is_whole and not entries:
                self._known, self._ahead = n, target
                if not is_now and time.monotonic() < until:
                    continue
            is_last = is_whole and is_now
            return Reading(entries, is_last, newest, done, target, is_whole, id_hi)

    def save(
        self, connection: psycopg.Connection[Any], reading: Reading, settled: int | None = None
    ) -> None:
        """Move the position behind what was read, in the same transaction.

        Args:
            connection: The connection of `read`.
            reading: What it returned.
            settled: How many entries, from the first on, are done with. Default: all.
        """
        count = len(reading.entries) if settled is None else settled
        target: str | None
        ahead: str | None
        if count < len(reading.entries) or not reading.is_whole:
            if not count:
                return
            done, target, last_id = reading.done, reading.target, reading.entries[count - 1].id
            ahead = None
        else:
            if not count and not self._is_due(reading):
                return
            done, target, last_id = reading.target, None, 0
            ahead = done
        row = connection.execute(_SAVE, (self.sub, done, target, last_id)).fetchone()
        assert row is not None
        # If the transaction is rolled back, no position has this number, and nothing is assumed.
        self._known, self._ahead = (row[0] if ahead else None), ahead
        self._saved_at = time.monotonic()

    def _is_due(self, reading: Reading) -> bool:
        """Return whether to save that there was nothing to deliver up to here."""
        is_busy = reading.newest > reading.id_hi
        interval = SAVE_INTERVAL if is_busy else IDLE_INTERVAL
        return time.monotonic() - self._saved_at >= interval


def subscribe(
    connection: psycopg.Connection[Any], name: str, channel: str, start: Start = "now"
) -> int:
    """Return the number of a subscription; make it first if it is new.

    Args:
        connection: A connection of `Parameters`.
        name: The subscription's id.
        channel: Its channel.
        start: Where it begins, if it is new.
    """
    row = connection.execute(_SUBSCRIBE, (name, channel, *_since(start))).fetchone()
    assert row is not None
    return int(row[0])


def seek(connection: psycopg.Connection[Any], name: str, channel: str, to: Start) -> bool:
    """Move a subscription elsewhere; return whether it exists.

    It waits until a batch that is under way is done.
    """
    values = (name, channel, *_since(to))
    try:
        row = connection.execute(_SEEK, values).fetchone()
    except psycopg.errors.ObjectNotInPrerequisiteState:  # the log is a copy
        if not reanchor(connection):
            raise
        row = connection.execute(_SEEK, values).fetchone()
    assert row is not None
    return bool(row[0])


def forget(connection: psycopg.Connection[Any], name: str, channel: str) -> bool:
    """Delete a subscription, its position and what has failed for it; return whether it existed."""
    row = connection.execute(_FORGET, (name, channel)).fetchone()
    assert row is not None
    return bool(row[0])


def _since(start: Start) -> tuple[str, int | None, datetime | None]:
    """Return the arguments of the schema's functions.

    Raises:
        ArgumentTypeError: It isn't a place to start at.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ArgumentTypeError(f"a time to start at needs a time zone: {start!r}")
        return "time", None, start
    if isinstance(start, int) and not isinstance(start, bool):
        return "id", start, None
    if start in ("now", "oldest"):
        return start, None, None
    raise ArgumentTypeError(f"start with 'now', 'oldest', a datetime or an id, not {start!r}")
