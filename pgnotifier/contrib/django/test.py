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

# The name is found before pg_catalog's own; that one is called, too, for its errors. The condition
# is NOTIFY's own: what is equal is sent once in a transaction.
_CAPTURE = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.sent (n serial, channel text, payload text);
CREATE FUNCTION {SCHEMA}.pg_notify(told_to text, told text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify(told_to, told);
    INSERT INTO {SCHEMA}.sent (channel, payload) SELECT told_to, coalesce(told, '')
    WHERE NOT EXISTS (
        SELECT FROM {SCHEMA}.sent s WHERE s.channel = told_to AND s.payload = coalesce(told, '')
    );
END
$$;
"""  # noqa: S608 - the name is ours


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
    with connection.cursor() as cursor:
        cursor.execute("SHOW search_path")
        (path,) = cursor.fetchone()
        cursor.execute(_CAPTURE)
        cursor.execute(f"SET search_path = {SCHEMA}, {path}, pg_catalog")
    try:
        yield captured
    finally:
        if connection.connection.info.transaction_status == TransactionStatus.INTRANS:
            captured += [
                one for one in _take(connection, path) if not names or one.channel in names
            ]
    if execute:
        for arrived in captured:
            _deliver(arrived)


def _take(connection: Any, path: str) -> list[Notification]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT channel, payload FROM {SCHEMA}.sent ORDER BY n")  # noqa: S608
        rows = cursor.fetchall()
        cursor.execute(f"SET search_path = {path}")
        cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    now = datetime.now(UTC)
    return [Notification(channel, decode(raw), raw, pid, now) for channel, raw in rows]


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
    for channel in Channel.known.values():
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
