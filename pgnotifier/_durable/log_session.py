"""A session that reads the log: each method is one step of a subscription's way through it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import encoding_of
from pgnotifier._durable.patience import ImpatientConnection
from pgnotifier._log.dead_letters import (
    Failure,
    drop_letters,
    find_due,
    record_another,
    record_failure,
)
from pgnotifier._log.guard import check_server, reanchor
from pgnotifier.errors import (
    ConnectionFailedError,
    LogNotInstalledError,
    LogRefusedError,
    PgNotifierError,
    in_one_line,
)

LOCKS = 1885957742
"""The first key of the advisory locks; the second is the number of a subscription. The schema uses
0."""
_HOLD = "SELECT pgnotifier.hold(%s)"
_UNLOCK = "SELECT pg_catalog.pg_advisory_unlock(%s, %s)"
_WINDOW = """
SELECT state, channel, n, done::pg_catalog.text, target::pg_catalog.text, last_id, is_now, id_hi,
    newest
FROM pgnotifier.take(%s, %s::pg_catalog.int8, %s::pg_catalog.pg_snapshot)
"""
_READ = """
SELECT id, at, key, payload, is_rest
FROM pgnotifier.read(%s, %s::pg_catalog.pg_snapshot, %s::pg_catalog.pg_snapshot, %s, %s)
"""
_WAITING = "pg_catalog.set_config('synchronous_commit', 'local', true)"
"""Has the commit of a transaction wait for the disk, though not for replicas."""
_MOVE = f"""
SELECT pgnotifier.save(%s, %s::pg_catalog.pg_snapshot, %s::pg_catalog.pg_snapshot, %s), {_WAITING}
"""
_WAIT = f"SELECT {_WAITING}"
_NEXT_RETRY = """
SELECT pg_catalog.date_part('epoch', pg_catalog.min(retry_at)
    OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp())
FROM pgnotifier.failed WHERE sub OPERATOR(pg_catalog.=) %s AND NOT dead
"""
_FIGURES = """
SELECT p.sub, s.last_value, s.last_value OPERATOR(pg_catalog.-) p.id_hi, p.at,
    (SELECT pg_catalog.count(*) FROM pgnotifier.failed AS f
    WHERE f.sub OPERATOR(pg_catalog.=) p.sub AND NOT f.dead),
    (SELECT pg_catalog.count(*) FROM pgnotifier.failed AS f
    WHERE f.sub OPERATOR(pg_catalog.=) p.sub AND f.dead)
FROM pgnotifier.positions AS p CROSS JOIN pgnotifier.log_id_seq AS s
WHERE p.sub OPERATOR(pg_catalog.=) ANY(%s)
"""
_DOZE = "SELECT pgnotifier.doze()"
_WAKE = "SELECT pgnotifier.awake(%s)"


class Row(NamedTuple):
    """An entry as it is in the log, or one that has failed.

    Attributes:
        id: Its number.
        published_at: When it was published.
        key: Its key, if any, in the database's encoding.
        payload: Its payload, in the database's encoding.
        attempts: How often it was tried.
        n: Its number among those that have failed.
    """

    id: int
    published_at: datetime
    key: bytes | None
    payload: bytes
    attempts: int = 0
    n: int = 0


class Window(NamedTuple):
    """Where a subscription is in the log.

    Attributes:
        state: "taken", or why it can't be read: "busy", "gone" or "foreign".
        channel: Its channel.
        n: The number of the position.
        done: Each entry that is visible in this snapshot is delivered.
        target: The end of the window, a snapshot.
        last_id: Of the window, entries up to this one are delivered.
        is_now: Whether the window ends at the present.
        id_hi: The highest number in the log when the position was saved.
        newest: The highest number in the log now.
    """

    state: str
    channel: str
    n: int
    done: str
    target: str
    last_id: int
    is_now: bool
    id_hi: int
    newest: int


@dataclass(frozen=True, slots=True)
class Place:
    """A new position.

    Attributes:
        done: As in `Window`.
        target: As in `Window`; None if no window is under way.
        last_id: As in `Window`.
    """

    done: str
    target: str | None = None
    last_id: int = 0


class Figures(NamedTuple):
    """How far behind a subscription is.

    Attributes:
        newest: The highest number in the log.
        behind: How many entries were published since its position was saved, on any channel.
        saved_at: When that was.
        failed: How many entries are to be retried.
        dead: How many have failed for good.
    """

    newest: int
    behind: int
    saved_at: datetime
    failed: int
    dead: int


Failed = tuple[Row, Failure]
"""An entry that has failed, why, and what becomes of it."""


class LogSession:
    """A connection in autocommit mode that one thread uses.

    A subscription is held by an advisory lock of the session while its entries are delivered,
    rather than by the lock of its row. That needs a transaction, and one that is open for as long
    as a broker is down would keep the whole database from being vacuumed. The row is locked just
    for the moment in which its position moves.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        """Take the connection."""
        self.connection = connection
        self.encoding = encoding_of(connection)
        self._has_rung = False
        connection.add_notify_handler(self._note_ring)
        self._shares: bool | None = None  # what `doze` has returned, while dozing

    @property
    def is_dozing(self) -> bool:
        """Whether publishers ring the bell."""
        return self._shares is not None

    def prepare(self) -> None:
        """Have only some commits wait for the disk, and listen to the bell.

        A lock or the bell needs a transaction, too, and there are several for each batch. If a
        crash loses a position that was saved, the batch comes again; so that commit does wait.
        What is committed before is then on the disk as well.

        Raises:
            LogNotInstalledError: The schema isn't installed, or is too old.
            LogRefusedError: The server is a standby; or this role may not use the log.
        """
        check_server(self.connection)
        self.connection.execute("SET synchronous_commit TO off")
        self.connection.execute("LISTEN pgnotifier_wake")

    def lock(self, sub: int) -> bool:
        """Hold a subscription, so that no other replica advances it; return False if one does."""
        return bool(self._one(_HOLD, (sub,))[0])

    def unlock(self, sub: int) -> None:
        """Let other replicas have it."""
        self.connection.execute(_UNLOCK, (LOCKS, sub))

    def take(self, sub: int, known: int | None = None, ahead: str | None = None) -> Window:
        """Find the window of a subscription.

        Args:
            sub: Its number.
            known: The number of the position after which `ahead` was found.
            ahead: A snapshot up to which there was nothing to deliver.
        """
        return Window(*self._one(_WINDOW, (sub, known, ahead)))

    def read(self, channel: str, window: Window, limit: int) -> tuple[list[Row], bool]:
        """Return the first entries of a window, in order, and whether there are no more in it.

        Call it after `take`. The payloads have about 16 MiB together, or are a single one.
        """
        values = (channel, window.done, window.target, window.last_id, limit)
        found = self.connection.execute(_READ, values).fetchall()
        is_rest = bool(found[0][-1]) if found else True
        return [Row(*values) for *values, _ in found], is_rest

    def save(self, sub: int, known: int, place: Place, failed: Iterable[Failed] = ()) -> int | None:
        """Move a position, and put aside what has failed.

        Args:
            sub: The subscription's number.
            known: The number of the position that it moves on from.
            place: The new position.
            failed: What has failed of the entries that it moves past.

        Returns:
            The number of the new position; None if it was moved elsewhere meanwhile.
        """
        with self.connection.transaction():
            now = self.take(sub)
            if now.state != "taken" or now.n != known:
                return None
            for row, failure in failed:
                record_failure(self.connection, sub, now.channel, row, failure)
            return int(self._one(_MOVE, (sub, place.done, place.target, place.last_id))[0])

    def reanchor(self) -> bool:
        """Repair positions that were copied from another server; return whether that is done."""
        impatient = self.connection
        if not isinstance(impatient, ImpatientConnection):
            return reanchor(impatient)
        before, impatient.patience = impatient.patience, None  # it rewrites the whole log
        try:
            return reanchor(impatient)
        finally:
            impatient.patience = before

    def seconds_to_retry(self, sub: int) -> float | None:
        """Return in how many seconds something is to be retried; None if nothing is."""
        (seconds,) = self._one(_NEXT_RETRY, (sub,))
        return None if seconds is None else float(seconds)

    def read_due(self, sub: int, limit: int) -> list[Row]:
        """Return what is to be retried now."""
        found = find_due(self.connection, sub, limit)
        return [
            Row(one.id, one.published_at, one.key, one.payload, one.attempts, one.n)
            for one in found
        ]

    def settle_retried(self, done: Iterable[Row], failed: Iterable[Failed]) -> None:
        """Forget what has succeeded at last, and note what has failed again."""
        with self.connection.transaction():
            self.connection.execute(_WAIT)
            drop_letters(self.connection, [row.n for row in done])
            for row, failure in failed:
                record_another(self.connection, row.n, failure)

    def figures(self, subs: Sequence[int]) -> dict[int, Figures]:
        """Return how far behind subscriptions are."""
        found = self.connection.execute(_FIGURES, (list(subs),))
        return {sub: Figures(newest, max(0, behind), *rest) for sub, newest, behind, *rest in found}

    def doze(self) -> None:
        """Have publishers ring the bell from now on; look once more before waiting for it."""
        if self._shares is None:
            self._shares = bool(self._one(_DOZE)[0])

    def wake_up(self) -> None:
        """Have publishers not ring any more, unless other readers sleep; forget earlier rings."""
        self._has_rung = False
        if self._shares is not None:
            shares, self._shares = self._shares, None
            self.connection.execute(_WAKE, (shares,))

    def has_rung(self) -> bool:
        """Read what has arrived, without waiting; return whether the bell has rung."""
        pgconn = self.connection.pgconn
        pgconn.consume_input()
        while pgconn.notifies() is not None:
            self._has_rung = True
        rung, self._has_rung = self._has_rung, False
        return rung

    def _note_ring(self, _: object) -> None:
        """Learn that it has rung while a query was under way."""
        self._has_rung = True

    def _one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        found = self.connection.execute(query.encode(), values).fetchone()
        assert found is not None
        return tuple(found)


def translate(exc: psycopg.Error, parameters: Parameters) -> PgNotifierError:
    """Return the error of pgnotifier that stands for one of the driver."""
    reason = in_one_line(exc)
    made: PgNotifierError
    match exc:
        case (
            psycopg.errors.InvalidSchemaName()
            | psycopg.errors.UndefinedTable()
            | psycopg.errors.UndefinedFunction()
            | psycopg.errors.UndefinedColumn()
        ):
            made = LogNotInstalledError(
                f"the durable log isn't installed, or is too old ({parameters!r}): {reason}. "
                "Run: pgnotifier install"
            )
        case psycopg.errors.InsufficientPrivilege():
            made = LogRefusedError(
                f"this role may not read the durable log ({parameters!r}): {reason}. Its owner "
                "can allow that: pgnotifier install --grant-listener ROLE"
            )
        case _:
            made = ConnectionFailedError(f"can't read the durable log ({parameters!r}): {reason}")
    made.__cause__ = exc
    return made
