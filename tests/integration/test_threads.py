"""ThreadDispatcher calls callbacks in several threads, and waits for them when it stops."""

import os
import threading
import time

import pytest

from pgnotifier import (
    ConfigurationError,
    DispatcherMismatchError,
    InlineDispatcher,
    Notifier,
    ThreadDispatcher,
)


@pytest.fixture
def make(db, request):
    """Return a function that makes notifiers with a ThreadDispatcher."""

    def make(*args, **settings):
        notifier = Notifier(db.dsn, dispatcher=ThreadDispatcher(*args, **settings))
        request.addfinalizer(lambda: notifier.stop(5))
        return notifier

    return make


def workers():
    """Return the threads that call callbacks."""
    return [one for one in threading.enumerate() if one.name == "pgnotifier-worker"]


def test_several_at_a_time(make, db, eventually):
    """Callbacks of several subscriptions run concurrently, one in each worker thread."""
    eventually(lambda: not workers())  # those of the test before may be about to end
    notifier = make(3)
    barrier = threading.Barrier(3, timeout=20)
    passed = []
    for n in range(3):
        notifier.subscribe(n, "a", lambda *_: passed.append(barrier.wait()))
    db.notify("a", "1")
    eventually(lambda: len(passed) == 3)
    assert len(workers()) == 3


def test_without_order_one_subscription_runs_side_by_side(make, db, eventually):
    """With `ordered=False` several threads call the callback of one subscription concurrently."""
    notifier = make(4, ordered=False)
    barrier = threading.Barrier(4, timeout=20)
    passed = []
    notifier.subscribe(1, "a", lambda *_: passed.append(barrier.wait()))
    for n in range(4):
        db.notify("a", str(n))
    eventually(lambda: len(passed) == 4)


def test_stopping_waits_for_those_that_run(make, db, eventually, record):
    """`stop` waits for running and waiting callbacks; afterwards no thread is left."""
    notifier = make(2)
    begun = threading.Event()

    def slow(*args):
        begun.set()
        time.sleep(0.5)
        record(*args)

    notifier.subscribe(1, "a", slow)
    for n in range(3):
        db.notify("a", str(n))
    assert begun.wait(20)
    eventually(lambda: notifier.status().received >= 3)
    assert notifier.stop(30) == 0
    assert record.payloads == [0, 1, 2]
    eventually(lambda: not workers())


def test_what_takes_too_long_is_given_up(make, db, eventually):
    """If the timeout of `stop` passes, it returns how many are undelivered; no more calls begin."""
    notifier = make(1)
    gate, begun = threading.Event(), []

    def stuck(_id, _channel, payload, _pid):
        begun.append(payload)
        gate.wait(60)

    notifier.subscribe(1, "a", stuck)
    for n in range(5):
        db.notify("a", str(n))
    eventually(lambda: notifier.status().dispatchers[0].waiting == 5)
    eventually(lambda: begun)
    assert notifier.stop(0.2) == 5
    gate.set()
    eventually(lambda: not workers())
    assert begun == [0]


def test_a_callback_may_stop_its_notifier(make, db, eventually):
    """A callback that stops its notifier doesn't wait for itself; the rest is delivered."""
    notifier = make(1)
    took, seen = [], []

    def stop(_id, _channel, payload, _pid):
        seen.append(payload)
        if payload == 0:
            eventually(lambda: notifier.status().received >= 3)
            began = time.monotonic()
            notifier.stop(10)
            took.append(time.monotonic() - began)

    notifier.subscribe(1, "a", stop)
    for n in range(3):
        db.notify("a", str(n))
    eventually(lambda: len(seen) == 3)
    assert took[0] < 8
    assert not notifier.is_running()


def test_a_callback_may_subscribe(make, db, eventually, record):
    """A callback may subscribe in its thread; the channel is live when the call returns."""
    notifier = make(2)

    def subscribe(*_):
        notifier.subscribe(2, "b", record)
        db.notify("b", '"hello"')

    notifier.subscribe(1, "a", subscribe)
    db.notify("a")
    assert record.wait_for(1) == ["hello"]


def test_sys_exit_is_reported(db, eventually, record):
    """SystemExit in a callback is reported, and the next notification is delivered."""
    errors = []
    dispatcher = ThreadDispatcher(1)
    with Notifier(db.dsn, dispatcher=dispatcher, on_error=lambda *e: errors.append(e)) as notifier:

        def leave(*args):
            record(*args)
            raise SystemExit(3)

        notifier.subscribe(1, "a", leave)
        db.notify("a", "1")
        db.notify("a", "2")
        eventually(lambda: len(errors) == 2)
    assert record.payloads == [1, 2]


def test_one_notifier_each(db):
    """A second notifier is refused, because `stop()` would wait for the other's callbacks."""
    dispatcher = ThreadDispatcher()
    first = Notifier(db.dsn, dispatcher=dispatcher)
    with pytest.raises(ConfigurationError, match=f"serves {first!r}"):
        Notifier(db.dsn, dispatcher=dispatcher)
    shared = InlineDispatcher()
    Notifier(db.dsn, dispatcher=shared)
    Notifier(db.dsn, dispatcher=shared)


@pytest.mark.parametrize(
    "settings", [{"max_workers": 0}, {"max_workers": True}, {"max_pending": 0}]
)
def test_numbers_that_cannot_be(settings):
    """An invalid number is refused, with the name of the setting."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        ThreadDispatcher(**settings)


def test_a_coroutine_function_is_refused(make):
    """A coroutine function is refused, and the error names AsyncioDispatcher."""

    async def wait(*_): ...

    with pytest.raises(DispatcherMismatchError, match="AsyncioDispatcher"):
        make().subscribe(1, "a", wait)


def test_a_fork_takes_nothing_along(make, db, eventually, record):
    """A forked child has no threads and nothing pending; the parent still delivers."""
    notifier = make(2)
    gate = threading.Event()

    def wait(*args):
        gate.wait(30)
        record(*args)

    notifier.subscribe(1, "a", wait)
    for n in range(3):
        db.notify("a", str(n))
    eventually(lambda: notifier.status().dispatchers[0].waiting == 3)
    child = os.fork()
    if not child:
        dispatcher = notifier._lifecycle.attachments.default
        clean = not notifier.is_running() and not dispatcher.pending and not workers()
        os._exit(0 if clean else 1)
    assert os.waitpid(child, 0)[1] == 0
    gate.set()
    assert record.wait_for(3) == [0, 1, 2]
