"""What calls do, and what the listener keeps doing, while there is no connection."""

import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgnotifier import ConnectionFailedError, NotifierStoppedError, NotLiveError, PgNotifierError
from pgnotifier._connection.parameters import Parameters
from pgnotifier._notifier import lifecycle
from pgnotifier._runtime.backoff import Backoff

from .conftest import Sessions
from .proxy import Proxy
from .waiting import eventually


@pytest.fixture(autouse=True)
def short_pauses(quick):
    """Use short pauses between attempts."""


@pytest.fixture
def outage(monkeypatch):
    """Return a context manager that ends all sessions, and in which no connection can be made."""
    connect = Parameters.connect

    def refuse(self, **_options):
        raise ConnectionFailedError("refused by the test")

    @contextlib.contextmanager
    def outage(sessions, raising=refuse):
        monkeypatch.setattr(Parameters, "connect", raising)
        sessions.terminate()
        yield
        monkeypatch.setattr(Parameters, "connect", connect)

    return outage


def state(notifier):
    return notifier.status().state


def lost(notifier):
    eventually(lambda: state(notifier) == "disconnected")


def test_db_conf_that_hangs(pgnotifier_dsn, sessions, make_notifier, ledger):
    """While `db_conf` hangs, it is called once more, and then `why` and the log name it."""
    release, calls = threading.Event(), []
    release.set()

    def find_server():
        calls.append(1)
        assert release.wait(120)
        return pgnotifier_dsn

    notifier = make_notifier(find_server)
    notifier.add_channel("a")
    assert len(calls) == 1
    release.clear()
    sessions.terminate()
    eventually(lambda: "hasn't returned for" in (notifier.status().why or ""), timeout=60)
    assert "find_server) hasn't returned for 1" in notifier.status().why  # 10 s and more
    assert notifier.status().state == "disconnected"
    assert len(calls) == 3
    release.set()
    eventually(lambda: notifier.status().state == "listening")


def test_db_conf_that_hangs_at_the_start(make_notifier, caplog):
    """A start that `db_conf` keeps waiting logs a warning with its name."""
    release = threading.Event()

    def find_server():
        assert release.wait(120)
        raise LookupError

    notifier = make_notifier(find_server)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(notifier.start)
        eventually(lambda: "find_server) hasn't returned" in caplog.text, timeout=60)
        release.set()
        with pytest.raises(ConnectionFailedError, match="LookupError"):
            started.result(30)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_subscribe_waits_for_the_connection(
    pgnotifier_dsn, sessions, make_notifier, ledger, outage
):
    """`subscribe()` during an outage returns once its channel is listened to, and not before."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("old")
    with ThreadPoolExecutor(1) as pool:
        with outage(sessions):
            lost(notifier)
            call = pool.submit(notifier.subscribe, 1, "new", ledger.callback)
            time.sleep(0.2)
            assert not call.done()
        call.result(10)
    sessions.notify("new", 1)
    eventually(lambda: ledger.delivered == [(1, "new")])


def test_not_live_in_time_but_later(
    pgnotifier_dsn, sessions, make_notifier, ledger, outage, monkeypatch, caplog
):
    """`NotLiveError` keeps the change: it is live by the time the listener logs that it is back."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("old")
    monkeypatch.setattr(lifecycle, "LIVE_TIMEOUT", 0.1)
    caplog.set_level(logging.INFO, "pgnotifier.states")

    class Back(logging.Handler):
        def emit(self, record):
            # This runs in the reader's thread, which has just logged that it is back.
            if " again, after " in record.getMessage():
                assert state(notifier) == "listening"
                sessions.notify("new", "at once")

    handler = Back()
    logging.getLogger("pgnotifier.states").addHandler(handler)
    try:
        with outage(sessions):
            lost(notifier)
            with pytest.raises(NotLiveError, match="disconnected"):
                notifier.subscribe(1, "new", ledger.callback)
        eventually(lambda: ledger.delivered == [("at once", "new")])
    finally:
        logging.getLogger("pgnotifier.states").removeHandler(handler)


def test_removed_while_down(pgnotifier_dsn, sessions, make_notifier, ledger, outage):
    """`remove_channel()` returns at once during an outage; the channel isn't listened to again."""
    notifier = make_notifier(pgnotifier_dsn)
    for channel in ("kept", "gone"):
        notifier.subscribe(1, channel, ledger.callback)
    with outage(sessions):
        lost(notifier)
        begun = time.monotonic()
        notifier.remove_channel("gone")
        assert time.monotonic() - begun < 1
    eventually(lambda: state(notifier) == "listening")
    sessions.notify("gone")
    sessions.notify("kept", 1)
    eventually(lambda: ledger.delivered == [(1, "kept")])


def test_restart_while_down(pgnotifier_dsn, sessions, make_notifier, ledger, outage):
    """`restart()` raises if it can't connect, and the listener keeps trying."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    with outage(sessions):
        with pytest.raises(ConnectionFailedError):
            notifier.restart()
        assert notifier.is_running()
        lost(notifier)
        with pytest.raises(ConnectionFailedError):
            notifier.restart()
    eventually(lambda: state(notifier) == "listening")
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])


def test_stop_after_failed_restart(pgnotifier_dsn, sessions, make_notifier, outage):
    """After a `restart()` that failed, `stop()` ends the calls that are still waiting."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("old")
    with ThreadPoolExecutor(1) as pool, outage(sessions):
        with pytest.raises(ConnectionFailedError):
            notifier.restart()
        call = pool.submit(notifier.add_channel, "new")
        eventually(lambda: "new" in notifier.get_channels())
        notifier.stop()
        with pytest.raises(NotifierStoppedError):
            call.result(5)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("defect")])
def test_goes_on_after_any_error(pgnotifier_dsn, sessions, make_notifier, ledger, outage, error):
    """After any error while connecting, the listener tries again."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    tries = []

    def fail(self, **_options):
        tries.append(self)
        raise error

    with outage(sessions, fail):
        eventually(lambda: len(tries) > 3)
        assert notifier.is_running()
    eventually(lambda: state(notifier) == "listening")
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])


def test_goes_on_without_threads(pgnotifier_dsn, sessions, make_notifier, ledger, monkeypatch):
    """If no thread can be started any more, the listener still reconnects and reports the gap."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append)
    notifier.subscribe(1, "orders", ledger.callback)
    start, refused = threading.Thread.start, []

    def refuse(self):
        if not self.name.startswith("pgnotifier"):
            return start(self)
        refused.append(self.name)
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    sessions.terminate()
    eventually(lambda: len(ledger.gaps) == 1)
    assert state(notifier) == "listening"
    sessions.notify("orders", 2)
    eventually(lambda: ledger.delivered == [(1, "orders"), (2, "orders")])
    assert refused == ["pgnotifier-connect", "pgnotifier-on_gap"]


def test_database_renamed(pgnotifier_private_postgres, make_notifier, ledger):
    """A listener reconnects once its database, renamed for a while, has its name back."""
    server = pgnotifier_private_postgres
    dsn = server.create_database("shop")
    admin = Sessions(server.dsn)
    notifier = make_notifier(dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    admin.execute("ALTER DATABASE shop ALLOW_CONNECTIONS false")
    Sessions(server.dsn).execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'shop'"
    )
    admin.execute("ALTER DATABASE shop RENAME TO away")
    lost(notifier)
    with pytest.raises(ConnectionFailedError, match='"shop" does not exist'):
        notifier.restart()
    admin.execute("ALTER DATABASE away RENAME TO shop")
    admin.execute("ALTER DATABASE shop ALLOW_CONNECTIONS true")
    eventually(lambda: state(notifier) == "listening")
    Sessions(dsn).notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])


def test_first_connection_lost_before_listen(pgnotifier_private_postgres, make_notifier):
    """A connection lost at LISTEN makes `start()` and `restart()` raise `ConnectionFailedError`."""
    with Proxy(conninfo_to_dict(pgnotifier_private_postgres.dsn)) as proxy:
        proxy.cut_at = b"LISTEN"
        notifier = make_notifier(proxy.dsn)
        notifier.add_channel("orders", autorun=False)
        with pytest.raises(PgNotifierError) as caught:
            notifier.start()
        assert isinstance(caught.value, ConnectionFailedError)
        assert not notifier.is_running()
        proxy.cut_at = None
        notifier.start()
        proxy.cut_at = b"LISTEN"
        with pytest.raises(ConnectionFailedError):
            notifier.restart()
        proxy.cut_at = None
        eventually(lambda: state(notifier) == "listening")


def test_notify_while_down(pgnotifier_private_postgres, make_notifier):
    """`notify()` raises while the server is down, and reconnects once it is back."""
    server = pgnotifier_private_postgres
    notifier = make_notifier(server.dsn)
    notifier.notify("orders", 1)
    server.stop("immediate")
    for _ in range(2):
        with pytest.raises(ConnectionFailedError):
            notifier.notify("orders", 2)
    server.start()
    notifier.notify("orders", 3)
    assert not notifier.is_running()


def test_backoff_bounds(monkeypatch):
    """Pauses double from 0.1 s to 30 s, and each is randomly shortened by up to half."""
    monkeypatch.undo()  # the short pauses
    for _ in range(20):
        backoff = Backoff()
        pauses = [backoff.pause() for _ in range(14)]
        full = [min(0.1 * 2**n, 30.0) for n in range(14)]
        assert all(f / 2 <= p <= f for p, f in zip(pauses, full, strict=True))
    assert len({Backoff().pause() for _ in range(20)}) > 1
