"""A session with which a source reads the log: the SQL for each step of a durable subscription."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg

from pgnotifier._connection.session import encoding_of, listen_query
from pgnotifier._delivery.portions import Row
from pgnotifier._durable.patience import ImpatientConnection
from pgnotifier._durable.rows import Failed, Fetched, Figures, Missed, Place, Unread, Window
from pgnotifier._durable.translating import POOLED
from pgnotifier._log.dead_letters import drop_letters, find_due, record_another, record_failure
from pgnotifier._log.guard import check_server, has_foreign_entries, reanchor
from pgnotifier._log.positions import Start, subscribe
from pgnotifier.errors import LogRefusedError, NotListeningError

NOWHERE = Place("")
"""Stands for no place."""
LOCKS = 1885957742
"""The first key of advisory locks; the second is a subscription's number, or 0 in the schema."""
_PID = "SELECT pg_catalog.pg_backend_pid()"
# If one of its processes crashes, the server keeps its start time, but loses what wasn't on the
# disk. The crash also resets the statistics of its background writer.
_RUN = """
SELECT pg_catalog.concat_ws(
    ' ', pg_catalog.pg_postmaster_start_time(), pg_catalog.pg_stat_get_bgwriter_stat_reset_time()
), d.oid, n.oid
FROM pg_catalog.pg_database AS d CROSS JOIN pg_catalog.pg_namespace AS n
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
AND n.nspname OPERATOR(pg_catalog.=) 'pgnotifier'
"""
# Null if this is another session of the server than at the beginning, because of a pooler.
_HOLD = """
SELECT CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %s
    THEN pgnotifier.hold(%s) END
"""
_UNLOCK = "SELECT pg_catalog.pg_advisory_unlock(%s, %s)"
_ADVANCE = """
SELECT state, n, done::pg_catalog.text, target::pg_catalog.text, last_id, is_now, id_hi, newest, (
        SELECT s.oid FROM pg_catalog.pg_namespace AS s
        WHERE s.nspname OPERATOR(pg_catalog.=) 'pgnotifier'
    ), is_held, id, at, key, payload, is_rest
FROM pgnotifier.advance(
    %s, %s, %s::pg_catalog.int8, %s::pg_catalog.pg_snapshot, %s, %s,
    %s::pg_catalog.pg_snapshot, %s, %s,
    %s::pg_catalog.pg_snapshot, %s::pg_catalog.pg_snapshot, %s, %s
)
"""
# A prepared statement keeps its plan while slots grow, so the plan must never read a whole slot.
_PREPARE = """
SET synchronous_commit TO off; SET jit TO off; SET work_mem TO '32MB';
SET enable_seqscan TO off; SET enable_bitmapscan TO off; SET plan_cache_mode TO force_generic_plan;
LISTEN pgnotifier_wake
"""
# The commit of the transaction waits for the disk, though not for replicas.
_WAIT = "SELECT pg_catalog.set_config('synchronous_commit', 'local', true)"
_MOVE = """
SELECT n, CASE WHEN %s THEN pg_catalog.set_config('synchronous_commit', 'local', true) END
FROM pgnotifier.move(
    %s, %s, %s::pg_catalog.pg_snapshot, %s::pg_catalog.pg_snapshot, %s
) AS n
"""
_NEXT_RETRY = """
SELECT pg_catalog.date_part('epoch', pg_catalog.min(retry_at)
    OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp())
FROM pgnotifier.failed WHERE sub OPERATOR(pg_catalog.=) %s AND NOT dead
"""
# Without OFFSET, `measure`, which takes long, would be called for all subscriptions.
_FIGURES = """
SELECT p.sub, s.last_value, m.behind, m.oldest, f.failed, f.attempts, f.dead
FROM pgnotifier.positions AS p CROSS JOIN pgnotifier.log_id_seq AS s
LEFT JOIN LATERAL (
    SELECT * FROM pgnotifier.measure(p.sub)
    WHERE p.sub OPERATOR(pg_catalog.=) ANY(%s) OFFSET 0
) AS m ON true
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(*) FILTER (WHERE NOT dead) AS failed,
        pg_catalog.count(*) FILTER (WHERE dead) AS dead,
        pg_catalog.max(attempts) FILTER (WHERE NOT dead) AS attempts
    FROM pgnotifier.failed WHERE sub OPERATOR(pg_catalog.=) p.sub
) AS f
WHERE p.sub OPERATOR(pg_catalog.=) ANY(%s)
"""
_BELL = "pgnotifier_wake"
_OFFER = "NOTIFY pgnotifier_wake, 'offered'"
_FIND_UNREAD = "SELECT name, channel, read_at, slots, bytes FROM pgnotifier.find_unread()"
_TAKE_GAPS = """
SELECT n, from_id, to_id, since, until, entries, is_exact FROM pgnotifier.take_gaps(%s)
"""
_DROP_GAPS = "SELECT pgnotifier.drop_gaps(%s)"
_DOZE = "SELECT pgnotifier.doze()"
_WAKE = "SELECT pgnotifier.awake(%s)"


class LogSession:
    """A connection in autocommit mode that one thread uses.

    A subscription is held by an advisory lock of the session while its entries are delivered,
    rather than by a lock of its row. A row lock needs a transaction, and one that is open for as
    long as a broker is down would keep the whole database from being vacuumed. The row is locked
    only for the moment in which its position moves.

    Attributes:
        run: Identifies the log, its database, and the run of the server. The numbers of
            subscriptions, positions, entries and transactions are only valid while it stays the
            same: after a restart, the server may have an older state of the database, or be a
            standby that lacks the latest changes.
        is_offered: Whether another replica has left a subscription for others to take.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        on_other: Callable[[str, str, int], object] = lambda *_: None,
    ) -> None:
        """Take the connection, and ask which process of the server it has.

        Args:
            connection: The connection.
            on_other: Called with channel, payload and pid of notifications that aren't the bell's.
        """
        self.connection = connection
        self.encoding = encoding_of(connection)
        self.server_pid = int(self._one(_PID)[0])
        # Nothing is prepared behind a pooler, which makes up the pid: others might get the session.
        is_pooled = connection.info.backend_pid != self.server_pid
        connection.prepare_threshold = None if is_pooled else sys.maxsize
        self.run: tuple[str, int, int] | None = None
        self.is_offered = False
        self._has_rung = False
        self._on_other = on_other
        connection.add_notify_handler(lambda one: self._note(one.channel, one.payload, one.pid))
        self._shares: bool | None = None  # what `doze` has returned, while dozing

    @property
    def is_dozing(self) -> bool:
        """Whether publishers ring the bell."""
        return self._shares is not None

    def prepare(self) -> None:
        """Set the session up: settings and the bell. Repair entries that have been replicated.

        Locks and the bell need transactions, too, several for each batch. Their commits don't wait
        for the disk. If a crash loses a saved position, its batch is delivered again, so that
        commit does wait. What was committed before is then on the disk as well.

        Raises:
            LogNotInstalledError: The schema isn't installed, or is too old.
            LogRefusedError: The server is a standby; this role may not use the log; or the
                database's encoding is one that can't be read.
        """
        check_server(self.connection)
        if self.encoding.name == "MULE_INTERNAL":  # PostgreSQL can't convert it to UTF-8
            raise LogRefusedError(
                "durable subscriptions can't be read from a database with the encoding "
                "MULE_INTERNAL. Use one with UTF8"
            )
        self.connection.execute(_PREPARE)
        if has_foreign_entries(self.connection):
            self.reanchor()
        started, database, schema = self._one(_RUN)
        self.run = started, database, schema

    def subscribe(self, name: str, channel: str, start: Start) -> int:
        """Return the number of a subscription; make it first if it is new.

        Args:
            name: The subscription's id.
            channel: Its channel.
            start: Where it begins, if it is new.
        """
        try:
            return subscribe(self.connection, name, channel, start)
        except psycopg.errors.ObjectNotInPrerequisiteState:  # the log is a copy
            if not self.reanchor():
                raise
            return subscribe(self.connection, name, channel, start)

    def listen(self, verb: str, channels: Iterable[str]) -> None:
        """LISTEN to other channels, or UNLISTEN.

        Only where the database's encoding is UTF-8: there, no payload can end the session.
        """
        if self.encoding.client == "UTF8":
            self.connection.execute(listen_query(channels, verb))

    def lock(self, sub: int) -> bool:
        """Hold a subscription, so that no other replica advances it; return False if one does.

        Raises:
            NotListeningError: A pooler has given the session to another client.
        """
        (held,) = self._one(_HOLD, (self.server_pid, sub))
        if held is None:
            raise NotListeningError(POOLED)
        return bool(held)

    def advance(
        self,
        sub: int,
        known: int | None,
        ahead: Place | None,
        limit: int,
        *,
        keep: bool,
        is_held: bool = False,
        settled: Place | None = None,
        waits: bool = False,
    ) -> Fetched | None:
        """Hold a subscription, and read what comes next; return None if another replica has it.

        If there is nothing to read, the subscription is released again at once.

        Args:
            sub: The subscription's number.
            known: The number of the position after which `ahead` was found.
            ahead: Where to read on: everything before is under way, or isn't for this subscription.
            limit: How many entries to read at most. The payloads have about 16 MiB together, or are
                a single one.
            keep: Whether to hold it even if there is nothing to read.
            is_held: Whether this session holds it already.
            settled: Where to move the position in the same step, if anywhere. If somebody else has
                moved it, nothing is read.
            waits: Whether moving it waits for the disk, as for `save`.

        Raises:
            NotListeningError: A pooler has given the session to another client.
            psycopg.OperationalError: The log was installed again, or restored, since `prepare`.
        """
        start, end = ahead or NOWHERE, settled or NOWHERE
        values: tuple[Any, ...] = (
            *(self.server_pid, sub, known, start.done or None, limit, keep),
            *(start.target, start.last_id, is_held),
            *(end.done or None, end.target, end.last_id, waits),
        )
        query = _ADVANCE.encode()
        found = self.connection.execute(query, values, prepare=True, binary=True).fetchall()
        last = found.pop()
        state, *window, schema, is_held = last[:10]
        if state == "pooled":
            raise NotListeningError(POOLED)
        if state == "elsewhere":
            return None
        self.check_schema(schema)
        rows = [Row(*one[10:14]) for one in found]
        is_rest = last[-1] is not False  # null: it wasn't read
        return Fetched(Window(state, *window), rows, is_rest, is_held)

    def unlock(self, sub: int) -> None:
        """Let other replicas have it."""
        self.connection.execute(_UNLOCK, (LOCKS, sub))

    def save(
        self,
        sub: int,
        known: int,
        channel: str,
        place: Place,
        failed: Sequence[Failed] = (),
        *,
        waits: bool = True,
    ) -> int | None:
        """Move a position, and put aside what has failed.

        Args:
            sub: The subscription's number.
            known: The number of the position that it moves on from.
            channel: Its channel.
            place: The new position.
            failed: What has failed of the entries that it moves past.
            waits: Whether to wait for the disk. If not, a crash of the server shortly afterwards
                may undo this.

        Returns:
            The number of the new position; None if somebody else has moved it meanwhile.
        """
        values = (waits, sub, known, place.done, place.target, place.last_id)
        if not failed:
            return self._move(values)
        with self.connection.transaction():
            made = self._move(values)
            if made is not None:
                for row, failure in failed:
                    record_failure(self.connection, sub, channel, row, failure)
            return made

    def _move(self, values: tuple[Any, ...]) -> int | None:
        made: int | None = self._one(_MOVE, values, prepare=True)[0]
        return made

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
        """Delete what has succeeded now, and record what has failed again."""
        with self.connection.transaction():
            self.connection.execute(_WAIT)
            drop_letters(self.connection, [row.n for row in done])
            for row, failure in failed:
                record_another(self.connection, row.n, failure)

    def figures(self, subs: Sequence[int], behind: Sequence[int]) -> dict[int, Figures]:
        """Return figures of subscriptions.

        Args:
            subs: Their numbers.
            behind: The numbers of those that may be behind. Counting how far takes long.
        """
        found = self.connection.execute(_FIGURES, (list(behind), list(subs)))
        return {
            sub: Figures(newest, behind or 0, oldest, failed, attempts or 0, dead)
            for sub, newest, behind, oldest, failed, attempts, dead in found
        }

    def find_unread(self) -> list[Unread]:
        """Return subscriptions that keep space though nobody reads them; each only once a day."""
        return [Unread(*row) for row in self.connection.execute(_FIND_UNREAD)]

    def take_missed(self, sub: int) -> list[Missed]:
        """Return what was dropped for a subscription. It is kept until `forget_missed`."""
        return [Missed(*row) for row in self.connection.execute(_TAKE_GAPS, (sub,))]

    def forget_missed(self, missed: Iterable[Missed]) -> None:
        """Forget what was reported."""
        self.connection.execute(_DROP_GAPS, ([one.n for one in missed],))

    def doze(self) -> None:
        """Have publishers ring the bell from now on; look once more before waiting for it."""
        if self._shares is None:
            self._shares = bool(self._one(_DOZE)[0])

    def wake_up(self) -> None:
        """Have publishers stop ringing, unless other readers doze; forget earlier rings."""
        self._has_rung = False
        if self._shares is not None:
            shares, self._shares = self._shares, None
            self.connection.execute(_WAKE, (shares,))

    def offer(self) -> None:
        """Wake other replicas, so that they can take a subscription that this one leaves alone."""
        self.connection.execute(_OFFER)

    def has_rung(self) -> bool:
        """Read what has arrived, without waiting; return whether the bell has rung."""
        pgconn = self.connection.pgconn
        pgconn.consume_input()
        while (one := pgconn.notifies()) is not None:
            channel, payload = (
                part.decode("utf-8", "replace") for part in (one.relname, one.extra)
            )
            self._note(channel, payload, one.be_pid)
        rung, self._has_rung = self._has_rung, False
        return rung

    def _note(self, channel: str, payload: str, pid: int) -> None:
        """Note a notification, which may have arrived while a query was under way."""
        if channel == _BELL and payload:
            self.is_offered = self.is_offered or pid != self.server_pid
        elif channel == _BELL:
            self._has_rung = True
        else:
            self._on_other(channel, payload, pid)

    def check_schema(self, schema: int) -> None:
        """Raise `psycopg.OperationalError` if the log isn't the one that `prepare` has found."""
        if self.run is not None and schema != self.run[-1]:
            raise psycopg.OperationalError("the log was replaced by another one")

    def _one(self, query: str, values: Sequence[Any] = (), *, prepare: bool = False) -> Any:
        found = self.connection.execute(query.encode(), values, prepare=prepare).fetchone()
        assert found is not None
        return tuple(found)
