"""Cold starts: PostgreSQL comes up after the listener, and the listener waits for it."""

import asyncio
import logging
import threading
import time
import urllib.request

import pytest
from psycopg.conninfo import make_conninfo

from pgnotifier import (
    ConfigurationError,
    ConnectionFailedError,
    ListenRefusedError,
    NotifierStoppedError,
)

from .conftest import Sessions
from .waiting import eventually

NOBODY = "host=127.0.0.1 port=1 dbname=shop"


class Starting:
    """Calls `start()` in a thread, and keeps its outcome."""

    def __init__(self, notifier):
        self.outcome = None
        self._notifier = notifier
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        eventually(lambda: notifier.status().why or self.outcome)

    def _run(self):
        try:
            self._notifier.start()
            self.outcome = "started"
        except Exception as exc:  # noqa: BLE001 - for the test to look at
            self.outcome = exc

    def wait(self):
        """Wait for the end of `start()`, and return its outcome."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.outcome


def test_the_server_comes_up(pgnotifier_private_postgres, make_notifier, ledger, caplog):
    """`start()` returns once the server is up; it has warned once, and reports no gap."""
    caplog.set_level(logging.INFO, "pgnotifier")
    server = pgnotifier_private_postgres
    server.stop()
    notifier = make_notifier(server.dsn, wait=True)
    notifier.subscribe(1, "orders", ledger.callback, autorun=False)
    starting = Starting(notifier)
    status = notifier.status()
    assert (status.state, notifier.is_running()) == ("starting", True)
    assert "can't connect to PostgreSQL" in status.why
    time_of_first = time.monotonic()
    eventually(lambda: time.monotonic() - time_of_first > 1)  # several attempts
    server.start()
    assert starting.wait() == "started"
    assert notifier.status().state == "listening"
    assert notifier.status().why is None
    Sessions(server.dsn).notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert notifier.status().gaps == 0
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage().startswith("trying to connect: ") for record in warned] == [True]
    assert "\n" not in warned[0].getMessage()


def test_the_database_and_the_password_come(pgnotifier_private_postgres, make_notifier):
    """`start()` waits for a role and a database to be created; `status()` says what is missing."""
    server = pgnotifier_private_postgres
    dsn = make_conninfo(server.dsn, dbname="late", user="latecomer")
    notifier = make_notifier(dsn, wait=True)
    notifier.add_channel("orders", autorun=False)
    starting = Starting(notifier)
    eventually(lambda: 'role "latecomer" does not exist' in notifier.status().why)
    admin = Sessions(server.dsn)
    admin.execute("CREATE ROLE latecomer LOGIN")
    eventually(lambda: 'database "late" does not exist' in notifier.status().why)
    admin.execute("CREATE DATABASE late")
    assert starting.wait() == "started"


def test_changes_while_waiting(pgnotifier_private_postgres, make_notifier, ledger):
    """Channels added and removed while `start()` waits take effect once it is connected."""
    server = pgnotifier_private_postgres
    dsn = make_conninfo(server.dsn, dbname="late")
    notifier = make_notifier(dsn, wait=True)
    notifier.add_channels(["orders", "removed"], autorun=False)
    starting = Starting(notifier)
    subscribed = threading.Thread(
        target=lambda: notifier.subscribe(1, "new", ledger.callback), daemon=True
    )
    subscribed.start()
    eventually(lambda: "new" in notifier.get_channels())
    notifier.remove_channel("removed")
    with pytest.raises(ConnectionFailedError, match="late"):
        notifier.restart()
    Sessions(server.dsn).execute("CREATE DATABASE late")
    assert starting.wait() == "started"
    subscribed.join(20)
    assert not subscribed.is_alive()
    Sessions(dsn).notify("new", 1)
    eventually(lambda: ledger.delivered == [(1, "new")])
    assert notifier.get_channels() == {"orders", "new"}


def test_stop_while_waiting(make_notifier):
    """`stop()` makes a `start()` that waits raise at once, and both can be called again."""
    notifier = make_notifier(NOBODY, wait=True)
    for _ in range(3):
        starting = Starting(notifier)
        began = time.monotonic()
        assert notifier.stop() == 0
        assert isinstance(starting.wait(), NotifierStoppedError)
        assert time.monotonic() - began < 3
        assert notifier.status().state == "stopped"


def test_so_many_seconds(make_notifier):
    """After `wait` seconds, `start()` raises an error with the latest reason, and nothing runs."""
    notifier = make_notifier(NOBODY, wait=0.5)
    with pytest.raises(ConnectionFailedError, match=r"within 0\.5 s: can't connect .*refused"):
        notifier.start()
    assert not notifier.is_running()
    assert notifier.status().state == "stopped"


def test_so_many_seconds_for_a_silent_server(make_notifier, silent_port):
    """`start()` gives up in time on a server that accepts connections but never answers."""
    notifier = make_notifier(f"host=127.0.0.1 port={silent_port}", wait=0.5)
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError, match=r"within 0\.5 s: no answer"):
        notifier.start()
    assert time.monotonic() - began < 5
    assert not notifier.is_running()


@pytest.fixture
def silent_port():
    """Yield a port that accepts connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent.getsockname()[1]


@pytest.mark.parametrize("wait", [None, False, 0])
def test_without_waiting(make_notifier, wait):
    """Without `wait`, `start()` raises the first failure."""
    notifier = make_notifier(NOBODY, wait=wait)
    with pytest.raises(ConnectionFailedError, match="can't connect"):
        notifier.start()
    assert not notifier.is_running()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ("sslmode=bogus", "invalid sslmode value"),
        ("port=99999", "invalid port number"),
        ("keepalives=x", "invalid integer value"),
        ("port=1,2,3 host=a,b", "could not match 3 port numbers"),
        ("connect_timeout=soon", "connect_timeout"),
    ],
)
def test_what_will_never_do_is_not_waited_for(make_notifier, parameters, says):
    """Parameters that libpq itself refuses make `start()` fail at once, with or without `wait`."""
    for wait in (True, False):
        notifier = make_notifier(f"host=127.0.0.1 {parameters}", wait=wait)
        with pytest.raises(ConfigurationError, match=says):
            notifier.start()
        assert not notifier.is_running()


def test_what_the_server_refuses_is_not_waited_for(pgnotifier_dsn, make_notifier):
    """In a read-only session `start()` doesn't wait: it listens, or raises `ListenRefusedError`."""
    read_only = make_conninfo(pgnotifier_dsn, options="-c default_transaction_read_only=on")
    notifier = make_notifier(read_only, wait=True)
    notifier.add_channel("orders", autorun=False)
    try:
        notifier.start()
    except ListenRefusedError:
        assert not notifier.is_running()
    else:
        assert notifier.status().state == "listening"


@pytest.mark.parametrize("wait", ["yes", [], object()])
def test_other_types(make_notifier, wait):
    """A `wait` that is neither a bool, a number nor None raises a `TypeError`."""
    with pytest.raises(TypeError, match="wait must be True, False"):
        make_notifier(NOBODY, wait=wait)


@pytest.mark.parametrize("wait", [-1, float("inf"), float("nan")])
def test_other_numbers(make_notifier, wait):
    """A `wait` that is negative or not finite raises a `ConfigurationError`."""
    with pytest.raises(ConfigurationError, match="wait must be"):
        make_notifier(NOBODY, wait=wait)


def test_probes_are_answered_while_waiting(make_notifier, free_port):
    """While `start()` waits, the liveness probe succeeds, and the readiness probe fails."""
    notifier = make_notifier(NOBODY, wait=True, health_port=free_port)
    Starting(notifier)

    def ask(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}{path}", timeout=10) as got:
                return got.status
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code

    assert (ask("/healthz"), ask("/readyz")) == (200, 503)


def test_async_with(pgnotifier_private_postgres, make_notifier):
    """`async with` waits without blocking the event loop, and a cancellation ends the wait."""
    server = pgnotifier_private_postgres
    dsn = make_conninfo(server.dsn, dbname="late")

    async def enter(notifier, reached):
        async with notifier:
            reached.set()

    async def main():
        cancelled, reached = make_notifier(dsn, wait=True), asyncio.Event()
        task = asyncio.create_task(enter(cancelled, reached))
        while cancelled.status().why is None:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not cancelled.is_running()
        waiting = make_notifier(dsn, wait=True)
        task = asyncio.create_task(enter(waiting, reached))
        while waiting.status().why is None:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(Sessions(server.dsn).execute, "CREATE DATABASE late")
        await asyncio.wait_for(reached.wait(), 20)
        await task

    asyncio.run(main())


def test_none_for_a_dsn(make_notifier):
    """If the DSN is None, calls that need a connection raise an error that says so."""
    notifier = make_notifier(None, wait=True, autorun=False)
    notifier.subscribe(1, "orders", print)
    assert notifier.get_channels() == {"orders"}
    for call in (notifier.start, notifier.restart, lambda: notifier.notify("orders")):
        with pytest.raises(ConfigurationError, match="db_conf is None"):
            call()
    assert not notifier.is_running()
    assert "no connection parameters" in repr(notifier)
