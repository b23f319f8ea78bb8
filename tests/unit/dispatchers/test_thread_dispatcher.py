"""ThreadDispatcher when threads can't be started, or end at a bad moment."""

import logging
import threading
from time import monotonic

import pytest
from deliveries import NOW, put

from pgnotifier import Batch, Delivery, Notification, Subscription, ThreadDispatcher
from pgnotifier.dispatch import Binding
from pgnotifier.dispatchers import threads

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def refuse(monkeypatch):
    """Return a function that makes some starts of threads fail, given their name and numbers."""
    start, started = threading.Thread.start, []

    def refuse(name, first, last):
        def refusing(self):
            if self.name.startswith(name):
                started.append(self)
                if first <= len(started) <= last:
                    raise RuntimeError("can't start new thread")
            start(self)

        monkeypatch.setattr(threading.Thread, "start", refusing)

    return refuse


def bind(dispatcher, fn, name):
    subscription = Subscription(name, "a", fn, dispatcher)
    return Binding(subscription, dispatcher.bind(subscription), lambda *_: None)


@pytest.mark.parametrize("refused", [(1, 1), (1, 5)])
def test_no_thread_at_all(make_deliverer, eventually, refuse, caplog, refused):
    """Without a thread, it retries until one starts; nothing is lost, and one warning is logged."""
    dispatcher = ThreadDispatcher(4)
    calls = []
    one = bind(dispatcher, lambda *args: calls.append(args[2]), 1)
    refuse("pgnotifier-worker", *refused)
    deliverer = make_deliverer(dispatcher)
    deliverer.start()
    put(deliverer, [one], *range(10))
    eventually(lambda: len(calls) == 10)
    assert calls == list(range(10))
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["can't start new thread" in record.getMessage() for record in warned] == [True]
    dispatcher.close()
    eventually(lambda: dispatcher._lanes.workers == 0)


def test_fewer_threads_than_wanted(make_deliverer, eventually, refuse, caplog):
    """If not all threads start, the others do the work, and more are started later."""
    dispatcher = ThreadDispatcher(3)
    calls, go_on = [], threading.Event()
    refuse("pgnotifier-worker", 2, 4)

    deliverer = make_deliverer(dispatcher)
    deliverer.start()

    def callback(_id, _channel, payload, _pid):
        assert go_on.wait(60)  # or else a single thread might be fast enough
        calls.append(payload)

    def find_warnings():
        return [record for record in caplog.records if record.levelno == logging.WARNING]

    for number in range(5):
        for name in range(3):
            put(deliverer, [bind(dispatcher, callback, name)], number)
    eventually(find_warnings)
    go_on.set()
    eventually(lambda: len(calls) == 15)
    eventually(lambda: dispatcher.pending == 0)
    (warned,) = find_warnings()
    assert "callbacks are called by 1 of 3" in warned.getMessage()
    entered = threading.Barrier(3, timeout=20)
    for name in range(3):
        put(deliverer, [bind(dispatcher, lambda *_: calls.append(entered.wait()), name)], 0)
    eventually(lambda: len(calls) == 18)
    dispatcher.close()


def test_stopping_without_a_thread(make_deliverer, refuse, eventually):
    """If no thread can be started, what waits is given up at the deadline and counted."""
    dispatcher = ThreadDispatcher(2)
    refuse("pgnotifier-worker", 1, 10**9)
    deliverer = make_deliverer(dispatcher)
    deliverer.start()
    put(deliverer, [bind(dispatcher, print, 1)], 1, 2, 3)
    eventually(lambda: deliverer.retrying)
    assert deliverer.stop(monotonic() + 0.2) == 3
    eventually(lambda: not deliverer.thread.is_alive())


def test_a_worker_that_ends_at_that_moment(monkeypatch, eventually):
    """A delivery that arrives between a worker's last check and its end is called."""
    monkeypatch.setattr(threads, "IDLE", 0.0)
    looked, go_on = threading.Event(), threading.Event()
    dispatcher = ThreadDispatcher(1)
    calls = []
    one = bind(dispatcher, lambda *args: calls.append(args[2]), 1)
    wait = dispatcher._lanes.wait

    def wait_and_pause(timeout):
        turn = wait(timeout)
        if turn is None:
            looked.set()
            assert go_on.wait(20)
        return turn

    monkeypatch.setattr(dispatcher._lanes, "wait", wait_and_pause)

    def dispatch(number):
        dispatcher.dispatch(Batch([Delivery(one, Notification("a", number, "", 1, NOW))]))

    dispatch(1)
    assert looked.wait(20)
    dispatch(2)
    eventually(lambda: calls == [1, 2])
    go_on.set()


@pytest.mark.parametrize("max_workers", [1, 2])
@pytest.mark.slow
def test_workers_that_end_all_the_time(monkeypatch, eventually, max_workers):
    """Every notification is delivered, even if workers end all the time."""
    monkeypatch.setattr(threads, "IDLE", 0.0001)
    dispatcher = ThreadDispatcher(max_workers)
    calls = []
    bindings = [bind(dispatcher, lambda *args: calls.append(args[2]), n) for n in range(2)]
    for number in range(2000):
        one = bindings[number % 2]
        dispatcher.dispatch(Batch([Delivery(one, Notification("a", number, "", 1, NOW))]))
        if number % 10 == 0:
            eventually(lambda: dispatcher.pending == 0)
    eventually(lambda: dispatcher.pending == 0)
    assert sorted(calls) == list(range(2000))
    eventually(lambda: dispatcher._lanes.workers == 0)
