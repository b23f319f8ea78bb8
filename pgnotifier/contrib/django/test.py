"""Helpers for a project's tests: what was sent, though no transaction commits; or all of it, live.

    class OrderTests(TestCase):
        def test_paying_tells(self):
            with captureNotifications(execute=True) as sent:
                order.pay()
            self.assertEqual([one.payload["operation"] for one in sent], ["update"])

In `TestCase`, whose transactions never commit, PostgreSQL sends nothing. `captureNotifications` has
it written down instead, that of triggers included. `liveNotifications` is for
`TransactionTestCase`: a real listener, for as long as the `with` block.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg.pq import TransactionStatus

from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.changes import find_model, restore_values
from pgnotifier.contrib.django.channels import RECEIVERS, Channel
from pgnotifier.contrib.django.notifiers import find_parameters
from pgnotifier.contrib.django.running import run
from pgnotifier.contrib.django.signalling import SignalDispatcher
from pgnotifier.notification import Notification
from pgnotifier.notifier import Notifier
from pgnotifier.payload import decode

TIMEOUT = 20.0
"""Seconds to wait for notifications."""

SCHEMA = "pgnotifier_capture"

NAME = "pg_catalog.pg_notify("
CAPTURING = f"{SCHEMA}.pg_notify("

# PostgreSQL's own is called, too, for its errors. The condition is NOTIFY's: what is equal is sent
# once in a transaction.
_CAPTURE = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.sent (n serial, channel text, payload text);
CREATE FUNCTION {SCHEMA}.pg_notify(told_to text, told text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.pg_notify(told_to, told);
    INSERT INTO {SCHEMA}.sent (channel, payload) SELECT told_to, coalesce(told, '')
    WHERE NOT EXISTS (
        SELECT FROM {SCHEMA}.sent s WHERE s.channel = told_to AND s.payload = coalesce(told, '')
    );
END
$$;
"""  # noqa: S608 - the name is ours

# Functions that call it by its full name, as those of `notify_on` do.
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


@contextmanager
def captureNotifications(  # noqa: N802 - as captureOnCommitCallbacks
    *, channels: Collection[Channel | str] = (), execute: bool = False, using: str | None = None
) -> Iterator[list[Notification]]:
    """Yield a list that has, at the end of the block, what was sent within it, in order.

    It knows what calls `pg_notify()` in the test's transaction: `Channel.notify`, the triggers of
    `notify_on`, other triggers and SQL. It doesn't know the command `NOTIFY`.

    Args:
        channels: Those to capture. Default: all.
        execute: Whether to call receivers and tasks at the end of the block, in this process; what
            one raises fails the test.
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
    """Have a statement of this process call what writes down."""
    captured = sql.replace(NAME, CAPTURING) if isinstance(sql, str) else sql
    return execute(captured, params, many, context)


class _Capture:
    """What is changed in the test's transaction so that notifications are written down."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_setting('search_path')")
            (self._path,) = cursor.fetchone()
            cursor.execute(_FUNCTIONS, [NAME, SCHEMA])
            self._functions = [definition for (definition,) in cursor.fetchall()]
            cursor.execute(_CAPTURE)
            for definition in self._functions:
                cursor.execute(definition.replace(NAME, CAPTURING))
            # By its short name the function is found before PostgreSQL's; all else isn't.
            cursor.execute("SELECT pg_catalog.current_schemas(false)")
            (named,) = cursor.fetchone()
            first = SCHEMA if "pg_catalog" in named else f"{SCHEMA}, pg_catalog"
            cursor.execute(f"SET search_path = {first}, {self._path}")

    def end(self) -> list[Notification]:
        """Take the changes back; return what was written down."""
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT channel, payload FROM {SCHEMA}.sent ORDER BY n")  # noqa: S608
            rows = cursor.fetchall()
            cursor.execute(f"SET search_path = {self._path}")
            for definition in self._functions:
                cursor.execute(definition)
            cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
            cursor.execute("SELECT pg_catalog.pg_backend_pid()")
            (pid,) = cursor.fetchone()
        now = datetime.now(UTC)
        return [Notification(channel, _decode(raw), raw, pid, now) for channel, raw in rows]


def _decode(raw: str) -> Any:
    payload = decode(raw)
    restore_values(find_model(payload), payload)
    return payload


def _deliver(arrived: Notification) -> None:
    channel = Channel.known.get(arrived.channel)
    if channel is None:
        return
    for error in channel.deliver(arrived):
        raise error
    for key in [*channel.tasks]:
        run(key, arrived.channel, decode(arrived.raw), arrived.pid)


class LiveNotifications:
    """What arrives while a real listener runs."""

    def __init__(self) -> None:
        self._received: list[Notification] = []
        self._errors: list[BaseException] = []

    def wait_for(self, count: int, timeout: float = TIMEOUT) -> list[Notification]:
        """Wait until so many have been delivered, to receivers and tasks as well; return them.

        Raises:
            AssertionError: There weren't so many in time.
            Exception: What a receiver or a task has raised.
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
    """Have a real listener run for as long as the block, on the test's database.

    It calls the receivers of the database's channels, and their tasks, whatever the dispatcher: all
    of them on a thread of its own. Transactions have to commit, as in `TransactionTestCase`.

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
    for channel in Channel.all_known():
        if channel.database == alias:
            notifier.subscribe(RECEIVERS, channel.name, _deliver_live, autorun=False)
    notifier.start()
    try:
        yield live
    finally:
        notifier.stop()


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
        except Exception as exc:  # noqa: BLE001 - told to the test
            errors.append(exc)
    return errors
