"""`stop()` returns in time whatever the state, and leaves nothing behind."""

import contextlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgnotifier import Dispatcher, NotifierStoppedError
from pgnotifier._connection.parameters import Parameters
from pgnotifier._notifier.lifecycle import STOP_TIMEOUT

from .load import Sender
from .waiting import eventually, our_threads

IN_TIME = STOP_TIMEOUT + 2  # what the scheduler of a busy machine may add


@pytest.fixture(autouse=True)
def _no_threads_yet():
    # Other tests leave a thread behind that tries to connect until its own timeout.
    eventually(lambda: our_threads() == [])


@pytest.fixture(autouse=True)
def short_pauses(quick):
    """Use short pauses between attempts."""


@pytest.fixture
def black_hole():
    """Yield connection parameters of a host that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield {"host": "127.0.0.1", "port": silent.getsockname()[1], "connect_timeout": 2}


@pytest.fixture
def release(make_notifier):
    """Yield an event that blocking callbacks wait for; it is set after the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


@contextlib.contextmanager
def in_time(limit=IN_TIME):
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit


class Failing(Dispatcher):
    """A dispatcher to a queue that stays down."""

    def bind(self, subscription):
        return None

    def dispatch(self, batch):
        raise ConnectionError("no queue")


def test_idle(pgnotifier_dsn, sessions, make_notifier):
    """An idle notifier stops at once, with no thread and no session left."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("orders")
    with in_time(3):
        assert notifier.stop() == 0
    eventually(lambda: our_threads() == [], 2)
    assert not notifier.is_running()
    assert notifier.status().state == "stopped"
    eventually(lambda: sessions.pids() == [])
    notifier.stop()


def test_under_load_drains(pgnotifier_dsn, make_notifier, ledger):
    """All that was received is delivered before `stop()` returns, and nothing after it."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    with Sender(pgnotifier_dsn, ["orders"], rate=3000) as sender:
        sender.wait_for(300)
        eventually(lambda: notifier.status().received > 200)
        received = notifier.status().received
        with in_time():
            assert notifier.stop() == 0
        eventually(lambda: our_threads() == [], 2)
        count = len(ledger.delivered)
        sender.wait_for(100)
    assert count >= received
    assert [number for number, _ in ledger.delivered] == list(range(count))


def test_slow_callback_is_given_time(pgnotifier_dsn, sessions, make_notifier):
    """`stop()` waits for a slow callback that can empty the buffer within its five seconds."""
    done = []
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", lambda *_: time.sleep(0.01) or done.append(1))
    sessions.execute("SELECT pg_notify('orders', g::text) FROM generate_series(1, 100) g")
    eventually(lambda: notifier.status().received == 100)
    assert notifier.stop() == 0
    assert len(done) == 100


def test_blocking_callback(pgnotifier_dsn, sessions, make_notifier, release):
    """A callback that blocks costs `stop()` its five seconds, and leaves only its own thread."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", lambda *_: release.wait(60))
    for number in range(3):
        sessions.notify("orders", number)
    eventually(lambda: notifier.status().received == 3)
    with in_time():
        assert notifier.stop() == 2
    assert our_threads() == ["pgnotifier-InlineDispatcher"]
    eventually(lambda: sessions.pids() == [])
    release.set()
    eventually(lambda: our_threads() == [])


def test_failing_queue(pgnotifier_dsn, sessions, make_notifier):
    """If a dispatcher keeps failing, `stop()` gives up its deliveries, and counts them."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=Failing(), autorun=True)
    notifier.subscribe(1, "orders", print)
    sessions.notify("orders", 1)
    eventually(lambda: notifier.status().dispatchers[0].retrying)
    with in_time():
        assert notifier.stop(1) == 1
    eventually(lambda: our_threads() == [], 1)


def test_queue_recovers_while_stopping_beside_a_stuck_callback(
    pgnotifier_dsn, sessions, make_notifier, release
):
    """While one dispatcher uses up the time, another one's pause between attempts is cut short."""
    gone = []

    class Recovering(Failing):
        def dispatch(self, batch):
            if not stopping.is_set():
                raise ConnectionError("no queue")
            gone.extend(batch)
            batch.done(len(batch))

    stopping = threading.Event()
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe("stuck", "orders", lambda *_: release.wait(60))
    notifier.subscribe("queue", "orders", print, dispatcher=Recovering())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgnotifier._runtime.backoff.Backoff.FIRST", 30.0)
        sessions.notify("orders", 1)
        eventually(lambda: any(d.retrying for d in notifier.status().dispatchers))
    eventually(lambda: notifier.status().received == 1)
    stopping.set()
    with in_time():
        assert notifier.stop(2) == 1  # the stuck callback
    assert len(gone) == 1


def test_full_buffer(pgnotifier_dsn, sessions, make_notifier, release):
    """A reader that pauses because of a full buffer stops in time."""
    notifier = make_notifier(pgnotifier_dsn, buffer_size=10)
    notifier.subscribe(1, "orders", lambda *_: release.wait(60))
    sessions.execute("SELECT pg_notify('orders', g::text) FROM generate_series(1, 5000) g")
    eventually(lambda: notifier.status().dispatchers[0].full)
    with in_time():
        assert notifier.stop(1) > 10
    release.set()
    eventually(lambda: our_threads() == [])


def test_reconnecting(pgnotifier_private_postgres, make_notifier):
    """A notifier that is trying to reconnect stops at once."""
    notifier = make_notifier(pgnotifier_private_postgres.dsn)
    notifier.add_channel("orders")
    pgnotifier_private_postgres.stop("immediate")
    eventually(lambda: notifier.status().state == "disconnected")
    with in_time(3):
        notifier.stop()
    eventually(lambda: our_threads() == [])


def test_black_hole(make_notifier, black_hole):
    """`stop()` abandons a first connection that gets no answer, and `start()` raises."""
    notifier = make_notifier(black_hole)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(notifier.start)
        eventually(lambda: "pgnotifier-connect" in our_threads())
        with in_time(3):
            notifier.stop()
        with pytest.raises(NotifierStoppedError):
            call.result(1)
    assert our_threads() in ([], ["pgnotifier-connect"])  # the latter until its own timeout


def test_name_lookup_stalls(pgnotifier_dsn, sessions, make_notifier, monkeypatch):
    """A connection that is made after `stop()` has abandoned it is closed."""
    connect, going_on = Parameters.connect, threading.Event()

    def stall(self, **options):
        going_on.wait(60)
        return connect(self, **options)

    monkeypatch.setattr(Parameters, "connect", stall)
    notifier = make_notifier(pgnotifier_dsn)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(notifier.start)
        eventually(lambda: "pgnotifier-connect" in our_threads())
        with in_time(3):
            notifier.stop()
        with pytest.raises(NotifierStoppedError):
            call.result(1)
        going_on.set()
    eventually(lambda: our_threads() == [])
    eventually(lambda: sessions.pids() == [])


def test_frozen_server(pgnotifier_private_postgres, make_notifier):
    """A server that freezes during a round trip doesn't hold up `stop()`."""
    server = pgnotifier_private_postgres
    notifier = make_notifier(server.dsn, heartbeat=0.05, heartbeat_timeout=30)
    notifier.add_channel("orders")
    frozen = [
        server.pid,
        *map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()),
    ]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(0.2)  # for a heartbeat to begin
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(notifier.add_channel, "new")
            eventually(lambda: "new" in notifier.get_channels())
            with in_time(3):
                notifier.stop()
            with pytest.raises(NotifierStoppedError):
                call.result(1)
        eventually(lambda: our_threads() == [], 2)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


def test_within_a_callback(pgnotifier_dsn, sessions, make_notifier, ledger):
    """In a callback, `stop()` returns at once, and the rest is delivered after the callback."""
    notifier = make_notifier(pgnotifier_dsn)
    took = []

    def callback(id, channel, payload, pid):
        ledger.callback(id, channel, payload, pid)
        if payload == 1:
            begun = time.monotonic()
            notifier.stop()
            took.append(time.monotonic() - begun)

    notifier.subscribe(1, "orders", callback)
    sessions.execute("SELECT pg_notify('orders', g::text) FROM generate_series(1, 50) g")
    eventually(lambda: our_threads() == [])
    assert took[0] < 1
    assert not notifier.is_running()
    assert [number for number, _ in ledger.delivered] == list(range(1, 51))


def test_from_many_threads(pgnotifier_dsn, make_notifier, ledger):
    """Twenty threads may call `stop()` at once; the notifier is stopped when each returns."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)

    def stop(_):
        notifier.stop()
        return our_threads()

    with Sender(pgnotifier_dsn, ["orders"]) as sender, ThreadPoolExecutor(20) as pool:
        sender.wait_for(50)
        with in_time():
            assert list(pool.map(stop, range(20))) == [[]] * 20


def test_during_start(pgnotifier_dsn, sessions, make_notifier):
    """After concurrent calls of `start()` and `stop()`, the notifier can be stopped for good."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("orders", autorun=False)

    def start():
        with contextlib.suppress(NotifierStoppedError):
            notifier.start()

    with ThreadPoolExecutor(2) as pool, in_time(20):
        for _ in range(50):
            calls = [pool.submit(start), pool.submit(notifier.stop)]
            for call in calls:
                call.result(10)
    notifier.stop()
    eventually(lambda: our_threads() == [], 2)  # abandoned connections are closed when made
    eventually(lambda: sessions.pids() == [])


def test_with_block(pgnotifier_dsn, sessions, make_notifier, ledger, release):
    """A `with` block stops its notifier, even after an exception; Ctrl-C waits for no callback."""
    notifier = make_notifier(pgnotifier_dsn)
    with pytest.raises(ZeroDivisionError), notifier:
        notifier.subscribe(1, "orders", ledger.callback)
        sessions.notify("orders", 1)
        eventually(lambda: notifier.status().received)
        raise ZeroDivisionError
    assert ledger.delivered == [(1, "orders")]
    assert not notifier.is_running()
    with pytest.raises(KeyboardInterrupt), in_time(4), notifier:
        notifier.subscribe(1, "orders", lambda *_: release.wait(60))
        sessions.notify("orders", 1)
        eventually(lambda: notifier.status().received)
        raise KeyboardInterrupt


def test_fifty_cycles(pgnotifier_dsn, sessions, make_notifier, ledger):
    """Fifty starts and stops leave no descriptor, thread or session behind."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    notifier.notify("orders", 0)
    notifier.stop()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        notifier.start()
        notifier.notify("orders", 1)
        notifier.stop()
        eventually(lambda: our_threads() == [], 2)
    eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
    eventually(lambda: sessions.pids() == [])
    assert len(ledger.delivered) <= 51
