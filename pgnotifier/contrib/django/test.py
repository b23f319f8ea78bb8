"""Capture notifications in a project's tests, or receive them with a real listener.

    class OrderTests(TestCase):
        def test_paying_notifies(self):
            with captureNotifications(execute=True) as sent:
                order.pay()
            self.assertEqual([one.payload["operation"] for one in sent], ["update"])

In `TestCase`, PostgreSQL sends nothing, because transactions never commit. `captureNotifications`
records what would be sent, including what triggers send and what is published to the log.
`liveNotifications` is for `TransactionTestCase`: it runs a real listener during the `with` block.
"""

import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg.pq import TransactionStatus

from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.changes import find_model, restore_values
from pgnotifier.contrib.django.channels import Channel
from pgnotifier.contrib.django.notifiers import find_parameters
from pgnotifier.contrib.django.receiver_options import RECEIVERS
from pgnotifier.contrib.django.running import run
from pgnotifier.contrib.django.signalling import SignalDispatcher
from pgnotifier.current import called_for
from pgnotifier.errors import PgNotifierError
from pgnotifier.notification import Entry, Notification
from pgnotifier.notifier import Notifier
from pgnotifier.payload import decode

TIMEOUT = 20.0
"""Seconds to wait for notifications."""

SCHEMA = "pgnotifier_capture"

NAME = "pg_catalog.pg_notify("
CAPTURING = f"{SCHEMA}.pg_notify("

# PostgreSQL's own function is called as well, for its errors. The condition does what NOTIFY does:
# equal notifications of a transaction are sent once. A test may change roles: any may record.
_CAPTURE = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.sent (
    n serial, channel text, payload text, at timestamptz DEFAULT pg_catalog.clock_timestamp()
);
GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC;
CREATE FUNCTION {SCHEMA}.pg_notify(its_channel text, its_payload text) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.pg_notify(its_channel, its_payload);
    INSERT INTO {SCHEMA}.sent (channel, payload) SELECT its_channel, coalesce(its_payload, '')
    WHERE NOT EXISTS (
        SELECT FROM {SCHEMA}.sent s WHERE s.channel = its_channel
        AND s.payload = coalesce(its_payload, '')
    );
END
$$;
"""  # noqa: S608 - the name is ours

# Finds the functions that call pg_notify by its full name, as those of `notify_on` do.
_FUNCTIONS = """
SELECT pg_catalog.pg_get_functiondef(p.oid) FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE pg_catalog.strpos(p.prosrc, %s::pg_catalog.text) OPERATOR(pg_catalog.>) 0
AND l.lanname OPERATOR(pg_catalog.=) ANY (ARRAY['plpgsql'::pg_catalog.name, 'sql'])
AND n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.name
AND n.nspname OPERATOR(pg_catalog.<>) %s::pg_catalog.name
AND pg_catalog.pg_has_role(p.proowner, 'USAGE')
"""

_HAS_LOG = "SELECT pg_catalog.to_regclass('pgnotifier.log') IS NOT NULL"

# The transaction sees its own entries, including those of its savepoints.
_NEWEST = """
SELECT COALESCE(pg_catalog.max(id), 0) FROM pgnotifier.log
WHERE xid OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id()
"""
_PUBLISHED = """
SELECT id, at, channel, key, payload FROM pgnotifier.log
WHERE xid OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id() AND id OPERATOR(pg_catalog.>) %s
ORDER BY id
"""


@contextmanager
def captureNotifications(  # noqa: N802 - as captureOnCommitCallbacks
    *, channels: Collection[Channel | str] = (), execute: bool = False, using: str | None = None
) -> Iterator[list[Notification]]:
    """Yield a list that contains the notifications of the block, in order, when the block ends.

    It captures calls of `pg_notify()` in the test's transaction: by `Channel.notify`, by the
    triggers of `notify_on`, and by other triggers and SQL. It doesn't capture the command `NOTIFY`.
    If the database has the durable log, it also captures the entries that the block publishes: by
    durable channels and triggers, `publish`, and SQL. They have an `id` and a `key`.

    Args:
        channels: The channels to capture. Default: all.
        execute: Whether to call receivers and tasks at the end of the block, in this process. An
            exception in one of them fails the test.
        using: An alias of DATABASES. Default: `PGNOTIFIER["DATABASE"]`.

    Raises:
        ImproperlyConfigured: There is no transaction.
    """
    connection = connections[using or conf.get("DATABASE")]
    if not connection.in_atomic_block:
        raise ImproperlyConfigured(
            "captureNotifications needs the transaction that TestCase makes; in a "
            "TransactionTestCase use liveNotifications"
        )
    names = {one.name if isinstance(one, Channel) else one for one in channels}
    captured: list[Notification] = []
    capture = _Capture(connection)
    try:
        with connection.execute_wrapper(_capture_statement):
            yield captured
    finally:
        if connection.connection.info.transaction_status == TransactionStatus.INTRANS:
            captured += [one for one in capture.end() if not names or one.channel in names]
    if execute:
        for arrived in captured:
            _deliver(arrived)


def _capture_statement(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
    """Replace `pg_notify` in a statement of this process with the function that records."""
    captured = sql.replace(NAME, CAPTURING) if isinstance(sql, str) else sql
    return execute(captured, params, many, context)


class _Capture:
    """The changes to the test's transaction that record notifications."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        with self._cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_setting('search_path')")
            (self._path,) = cursor.fetchone()
            cursor.execute(_FUNCTIONS, [NAME, SCHEMA])
            self._functions = [definition for (definition,) in cursor.fetchall()]
            cursor.execute(_CAPTURE)
            for definition in self._functions:
                cursor.execute(definition.replace(NAME, CAPTURING))
            # Put the schema first in the path, so that `pg_notify` without a schema is found there.
            # Everything else is still found where it was.
            cursor.execute("SELECT pg_catalog.current_schemas(false)")
            (named,) = cursor.fetchone()
            first = SCHEMA if "pg_catalog" in named else f"{SCHEMA}, pg_catalog"
            cursor.execute(f"SET search_path = {first}, {self._path}")
            cursor.execute(_HAS_LOG)
            (self._has_log,) = cursor.fetchone()
            if self._has_log:
                cursor.execute(_NEWEST)
                (self._newest,) = cursor.fetchone()

    def end(self) -> list[Notification]:
        """Undo the changes; return what was recorded."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT at, channel, payload FROM {SCHEMA}.sent ORDER BY n"  # noqa: S608
            )
            rows = cursor.fetchall()
            published: Sequence[Any] = ()
            if self._has_log:
                cursor.execute(_PUBLISHED, [self._newest])
                published = cursor.fetchall()
            cursor.execute(f"SET search_path = {self._path}")
            for definition in self._functions:
                cursor.execute(definition)
            cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
            cursor.execute("SELECT pg_catalog.pg_backend_pid()")
            (pid,) = cursor.fetchone()
        now = datetime.now(UTC)
        found: list[tuple[datetime, Notification]] = [
            (at, Notification(channel, _decode(raw), raw, pid, now)) for at, channel, raw in rows
        ]
        for id, at, channel, key, raw in published:  # noqa: A001 - the column's name
            entry = Entry(channel, _decode(raw), raw, pid, now, id=id, key=key, published_at=at)
            found.append((at, entry))
        return [one for _, one in sorted(found, key=lambda pair: pair[0])]

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """Yield a cursor with the role that the connection began with."""
        own = self._connection.settings_dict["OPTIONS"].get("assume_role") or "none"
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_setting('role')")
            (role,) = cursor.fetchone()
            cursor.execute("SELECT pg_catalog.set_config('role', %s, false)", [own])
            yield cursor
            cursor.execute("SELECT pg_catalog.set_config('role', %s, false)", [role])


def _decode(raw: str) -> Any:
    payload = decode(raw)
    restore_values(find_model(payload), payload)
    return payload


def _deliver(arrived: Notification) -> None:
    channel = Channel.known.get(arrived.channel)
    if channel is None:
        return
    with called_for(arrived):
        errors = channel.deliver(arrived)
    for error in errors:
        raise error
    for key in [*channel.tasks]:
        with called_for(arrived):
            run(key, arrived.channel, decode(arrived.raw), arrived.pid)


class LiveNotifications:
    """The notifications that arrive while a real listener runs."""

    def __init__(self) -> None:
        self._received: list[Notification] = []
        self._errors: list[BaseException] = []

    def wait_for(self, count: int, timeout: float = TIMEOUT) -> list[Notification]:
        """Wait until a number of notifications have been delivered to receivers and tasks.

        Args:
            count: How many to wait for.
            timeout: Seconds to wait at most.

        Returns:
            All notifications so far.

        Raises:
            AssertionError: Fewer were delivered in time.
            Exception: A receiver or a task raised it.
        """
        deadline = time.monotonic() + timeout
        while len(self._received) < count:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{len(self._received)} of {count} notifications within {timeout:g} s: "
                    f"{self._received}"
                )
            time.sleep(0.01)
        for error in self._errors:
            raise error
        return [*self._received]


@contextmanager
def liveNotifications(  # noqa: N802 - as captureNotifications
    *, using: str | None = None
) -> Iterator[LiveNotifications]:
    """Run a real listener on the test's database during the `with` block.

    In a thread of its own it calls the receivers of the database's channels and also their tasks,
    with any dispatcher. Transactions have to commit, as in `TransactionTestCase`. From durable
    channels they get what is published during the block, and each entry is tried once.

    Args:
        using: An alias of DATABASES. Default: `PGNOTIFIER["DATABASE"]`.
    """
    alias = using or conf.get("DATABASE")
    live = LiveNotifications()
    dispatcher = _LiveDispatcher(live)
    notifier = Notifier(
        lambda: find_parameters(alias),
        dispatcher=dispatcher,
        autorun=False,
        on_error=lambda exc, *_: live._errors.append(exc),
    )
    channels = [one for one in Channel.all_known() if one.database == alias]
    # Not a real listener's name in the log: the test mustn't get what that one hasn't got yet.
    name = f"{RECEIVERS} of a test {secrets.token_hex(8)}"
    for channel in channels:
        options: dict[str, Any] = {"durable": True, "max_attempts": 1} if channel.durable else {}
        notifier.subscribe(name, channel.name, _deliver_live, autorun=False, **options)
    try:
        notifier.start()
        yield live
    finally:
        notifier.stop()
        for channel in channels:
            if channel.durable:
                with suppress(PgNotifierError):
                    notifier.unsubscribe(name, channel.name, autorun=False, forget=True)


class _LiveDispatcher(SignalDispatcher):
    def __init__(self, live: LiveNotifications) -> None:
        super().__init__()
        self._live = live

    def _deliver(self, delivery: Any) -> None:
        super()._deliver(delivery)
        self._live._received.append(delivery.notification)


def _deliver_live(arrived: Notification) -> list[Exception]:
    channel = Channel.known[arrived.channel]
    errors = channel.deliver(arrived)
    for key in [*channel.tasks]:
        try:
            run(key, arrived.channel, decode(arrived.raw), arrived.pid)
        except Exception as exc:  # noqa: BLE001 - `wait_for` raises it in the test
            errors.append(exc)
    return errors
