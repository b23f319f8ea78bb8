"""Read the log from any point on, and follow it, without a subscription: nothing is written.

    place of `start` -> windows, from snapshot to snapshot -> the entries of each channel in one

It reads in the same way as subscriptions do, by `pgnotifier.take` and `pgnotifier.read`, but keeps
its place in memory. So no position is moved or left behind, and no space is kept for it: entries
that were reclaimed in the meantime are missing. It needs the rights of a listener.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice
from operator import attrgetter
from time import monotonic
from typing import Any, LiteralString, NamedTuple

import psycopg

from pgnotifier._connection.session import encoding_of
from pgnotifier._log.guard import check_server
from pgnotifier._log.overview import explained
from pgnotifier.errors import LogRefusedError

ENTRIES = 500
"""How many entries of a channel are read at a time, at most."""
BYTES = 4 << 20
"""How many bytes of payloads are read at a time; more only for a single larger payload."""
STALLED = 5.0
"""Seconds without reading after which entries may have been reclaimed. That takes two rounds."""

_CLOCK = "SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())"
# If this server hasn't reached the number of a transaction yet, the log comes from another server.
_IS_COPY = """
SELECT pg_catalog.bool_or(
    l.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
) FROM (SELECT xid FROM pgnotifier.log ORDER BY xid DESC, id DESC LIMIT 1) AS l
"""
# As pgnotifier.find_place() does it: a tick only shows ids that are lower than its own.
_FIND_TICK = """
SELECT l.snap::pg_catalog.text FROM pgnotifier.log AS l
WHERE l.snap IS NOT NULL AND l.id OPERATOR(pg_catalog.<=) COALESCE(
    %s::pg_catalog.int8,
    (
        SELECT pg_catalog.min(o.id) FROM pgnotifier.log AS o
        WHERE o.at OPERATOR(pg_catalog.>=) %s::pg_catalog.timestamptz
    ),
    9223372036854775807
) AND pg_catalog.pg_snapshot_xmax(l.snap) OPERATOR(pg_catalog.<=)
    pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
ORDER BY pg_catalog.pg_snapshot_xmax(l.snap) DESC LIMIT 1
"""
_LOOK = """
SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text, last_value FROM pgnotifier.log_id_seq
"""
_BY_INDEX = """
SELECT pg_catalog.set_config('enable_seqscan', 'off', true),
    pg_catalog.set_config('enable_bitmapscan', 'off', true)
"""
# As pgnotifier.next_target() does it.
_FIND_TARGET = """
SELECT COALESCE(tick.snap, seen.snap)::pg_catalog.text, tick.snap IS NULL, s.last_value
FROM (SELECT pg_catalog.pg_current_snapshot() AS snap) AS seen
CROSS JOIN pgnotifier.log_id_seq AS s
LEFT JOIN LATERAL (
    SELECT l.snap FROM pgnotifier.log AS l
    WHERE l.xid OPERATOR(pg_catalog.>=) %s::pg_catalog.xid8 AND l.snap IS NOT NULL
        AND pg_catalog.pg_snapshot_xmax(l.snap) OPERATOR(pg_catalog.>) %s::pg_catalog.xid8
        AND pg_catalog.pg_snapshot_xmax(l.snap) OPERATOR(pg_catalog.<=)
            pg_catalog.pg_snapshot_xmax(seen.snap)
    ORDER BY l.xid, l.id OFFSET 1 LIMIT 1
) AS tick ON true
"""
_READ = """
SELECT id, at, key, payload, is_rest
FROM pgnotifier.read(%s, %s::pg_catalog.pg_snapshot, %s::pg_catalog.pg_snapshot, %s, %s, %s)
"""
_FIRST = "SELECT pg_catalog.min(first_id) FROM pgnotifier.slots()"
_id = attrgetter("id")


class Followed(NamedTuple):
    """An entry that was read.

    Attributes:
        id: Its number.
        channel: Its channel.
        published_at: When it was published, by the server's clock.
        key: Its key, if any.
        data: Its payload, in UTF-8.
    """

    id: int
    channel: str
    published_at: datetime
    key: str | None
    data: bytes


class _Window(NamedTuple):
    """What is read next: the entries that are visible in `target`, and weren't before."""

    target: str
    is_now: bool
    newest: int


class LogFollower:
    """Reads the entries of some channels from a place on. It may be given a new connection.

    Attributes:
        missed: The numbers of entries that were reclaimed before they were read: the first and
            the last one, which may have been on other channels. The caller resets it.
        was_reset: Whether the server turned out to have an older log than before, so that reading
            went on from the present. The caller resets it.
    """

    def __init__(self, channels: Sequence[str], start: "datetime | timedelta | int | str") -> None:
        """Begin without a connection.

        Args:
            channels: The channels.
            start: "now", "oldest", an aware time, how long ago, or the number of an entry.
        """
        self._channels = channels
        self._start = start
        self._connection: psycopg.Connection[Any] | None = None
        self._done = ""
        self._floor = 0
        self._since: datetime | None = None
        self._window: _Window | None = None
        self._passed = 0
        self._newest = 0
        self._read_at = 0.0
        self.missed: tuple[int, int] | None = None
        self.was_reset = False

    def use(self, connection: psycopg.Connection[Any]) -> None:
        """Read with this connection from now on, from where the previous one ended.

        Args:
            connection: A connection of `Parameters`, in autocommit mode.

        Raises:
            LogNotInstalledError: The log isn't installed, or is too old.
            LogRefusedError: The role may not read it, or the server is a standby or has a copy.
        """
        with explained():
            _check_readable(connection)
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.read_only = True
            self._connection = connection
            self._check_copy()
            now, newest = self._fetch_one(_LOOK)
            if not self._done:
                self._done = self._find_place(now)
                self._newest = newest if self._start == "now" else -1
            elif _top(self._done) > _top(now):  # another server took over without the latest
                self._done, self._newest, self.was_reset = now, newest, True
                self._window, self._passed = None, 0

    def read(self) -> Iterator[list[Followed]]:
        """Yield what was published since, in lists. No transaction is open meanwhile."""
        with explained():
            self._note_missed()
            while self._window is not None or self._has_news():
                window = self._window = self._window or self._find_window()
                found = merge(*(self._read_channel(one, window) for one in self._channels), key=_id)
                while some := [*islice(found, ENTRIES)]:
                    yield some
                    self._passed = some[-1].id
                    self._newest = max(self._newest, self._passed)
                self._done, self._window, self._passed = window.target, None, 0
                if window.is_now:
                    self._newest = window.newest
                    break
            self._read_at = monotonic()

    def _find_place(self, now: str) -> str:
        start = self._start
        if start == "now":
            return now
        if start == "oldest":
            return "1:1:"
        if isinstance(start, timedelta):
            (seconds,) = self._fetch_one(_CLOCK)
            start = datetime.fromtimestamp(seconds).astimezone() - start
        if isinstance(start, datetime):
            self._since = start
            row = self._fetch(_FIND_TICK, (None, start))
        else:
            self._floor = int(start) - 1
            row = self._fetch(_FIND_TICK, (int(start), None))
        return str(row[0]) if row else "1:1:"

    def _has_news(self) -> bool:
        """Return whether something may have been published since the last window."""
        now, newest = self._fetch_one(_LOOK)
        if newest == self._newest and _is_quiet(self._done):
            self._done = now
            return False
        return True

    def _find_window(self) -> "_Window":
        assert self._connection is not None
        top = str(_top(self._done))
        with self._connection.transaction():
            self._fetch_one(_BY_INDEX)
            return _Window(*self._fetch_one(_FIND_TARGET, (top, top)))

    def _read_channel(self, channel: str, window: "_Window") -> Iterator[Followed]:
        assert self._connection is not None
        encoding = encoding_of(self._connection)
        # After a lost connection, reading the window goes on from where it ended.
        last_id, is_rest = max(self._floor, self._passed), False
        while not is_rest:
            values = (channel, self._done, window.target, last_id, ENTRIES, BYTES)
            with self._connection.transaction():
                rows = self._connection.execute(_READ, values, binary=True).fetchall()
            is_rest = not rows or rows[-1][4]
            for id, at, key, payload, _ in rows:  # noqa: A001 - the column's name
                last_id = id
                if self._since is None or at >= self._since:
                    text = None if key is None else encoding.decode(key)
                    yield Followed(id, channel, at, text, encoding.to_utf8(payload))

    def _note_missed(self) -> None:
        """Find out whether entries were reclaimed while this didn't read."""
        if not self._read_at or monotonic() < self._read_at + STALLED:
            return
        (first,) = self._fetch_one(_FIRST)
        if first is None:
            (_, last) = self._fetch_one(_LOOK)
            first = last + 1
        if first > self._newest + 1:
            self.missed = self._newest + 1, first - 1

    def _check_copy(self) -> None:
        (is_copy,) = self._fetch_one(_IS_COPY)
        if is_copy:
            raise LogRefusedError(
                "the log was copied from another server, and is not repaired yet: start a listener "
                "that reads it, which repairs it"
            )

    def _fetch(self, query: LiteralString, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        assert self._connection is not None
        return self._connection.execute(query, values).fetchone()

    def _fetch_one(self, query: LiteralString, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        row = self._fetch(query, values)
        assert row is not None
        return row


def _check_readable(connection: psycopg.Connection[Any]) -> None:
    try:
        check_server(connection)
    except LogRefusedError as exc:
        if isinstance(exc.__cause__, psycopg.errors.InsufficientPrivilege):
            raise exc.__cause__ from None  # which `explained` says more about
        raise


def _top(snapshot: str) -> int:
    """Return the first transaction that had not begun."""
    return int(snapshot.split(":")[1])


def _is_quiet(snapshot: str) -> bool:
    """Return whether no transaction was in progress."""
    return not snapshot.split(":")[2]
