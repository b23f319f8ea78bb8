"""A dispatcher without subscriptions is closed and forgotten."""

import gc
import os
import threading
import weakref

import pytest
from redis import Redis

from pgnotifier import (
    AsyncioDispatcher,
    DispatcherMismatchError,
    InlineDispatcher,
    Notifier,
    ThreadDispatcher,
)
from pgnotifier.contrib.rq import RQDispatcher


class Closing(InlineDispatcher):
    """A dispatcher that counts how often it was closed."""

    closed = 0

    def close(self):
        """Count the call."""
        self.closed += 1


def threads():
    """Return the number of threads that deliver."""
    return sum("Dispatcher" in one.name or "Closing" in one.name for one in threading.enumerate())


@pytest.mark.parametrize("make", [InlineDispatcher, ThreadDispatcher])
def test_a_dispatcher_for_each_subscription(notifier, record, make, eventually):
    """Neither a dispatcher nor its thread outlives its only subscription."""
    notifier.subscribe(0, "orders", record)
    notifier.start()
    notifier.notify("orders", 1)
    eventually(lambda: len(record.calls) == 1)
    before, made = threads(), []
    for number in range(1, 11):
        by = make()
        made.append(weakref.ref(by))
        notifier.subscribe(number, "orders", record, dispatcher=by)
        notifier.notify("orders", number)
        eventually(lambda number=number: number in {one[0] for one in record.calls})
        notifier.unsubscribe(number, "orders")
        del by
    eventually(lambda: threads() == before)
    assert len(notifier.status().dispatchers) == 1
    eventually(lambda: gc.collect() is not None and not any(one() for one in made))


def test_those_that_never_ran(notifier):
    """A dispatcher that never ran, or that refused a callback, isn't kept either."""
    made = []
    for number in range(10):
        by = ThreadDispatcher()
        made.append(weakref.ref(by))
        notifier.subscribe(number, "orders", print, autorun=False, dispatcher=by)
        notifier.subscribe(number, "images", print, autorun=False, dispatcher=by)
        notifier.unsubscribe(number, "orders")
        assert by in notifier._lifecycle.attachments.in_use
        notifier.remove_channels(["images"])
        with pytest.raises(DispatcherMismatchError):
            notifier.subscribe(number, "orders", _generator, autorun=False, dispatcher=by)
        del by
    gc.collect()
    assert not any(one() for one in made)
    assert len(notifier._lifecycle.attachments.in_use) == 1


def _generator(*_):
    yield


def test_subscribing_with_another_one(notifier, record, eventually):
    """A dispatcher is closed once its subscription has moved to another; it can be used again."""
    first, second = Closing(), Closing()
    notifier.subscribe(1, "orders", record, dispatcher=first)
    notifier.start()
    notifier.subscribe(1, "orders", record, dispatcher=second)
    eventually(lambda: first.closed)
    assert not second.closed
    notifier.subscribe(1, "orders", record, dispatcher=first)  # it can be used again
    eventually(lambda: second.closed)
    notifier.notify("orders", 1)
    eventually(lambda: [one[:3] for one in record.calls] == [(1, "orders", 1)])


def test_a_callback_that_runs(notifier, eventually):
    """A callback that unsubscribes itself may go on, and `stop` waits for it."""
    begun, go_on, done = threading.Event(), threading.Event(), []

    def callback(id, channel, payload, pid):
        notifier.unsubscribe(1, "orders")
        begun.set()
        go_on.wait(20)
        done.append(id)

    by = Closing()
    notifier.subscribe(1, "orders", callback, dispatcher=by)
    notifier.start()
    notifier.notify("orders", 1)
    assert begun.wait(20)
    for _ in range(3):  # so the reader has checked the dispatcher
        notifier.add_channel("images")
        notifier.remove_channel("images")
    assert [one.name for one in notifier.status().dispatchers] == ["Closing"]
    threading.Timer(0.1, go_on.set).start()
    assert notifier.stop() == 0
    assert done == [1]


def test_a_thread_that_is_busy(notifier, eventually):
    """A ThreadDispatcher without subscriptions is kept until its threads are done."""
    begun, go_on = threading.Event(), threading.Event()

    def callback(id, channel, payload, pid):
        begun.set()
        go_on.wait(20)

    notifier.subscribe(1, "orders", callback, dispatcher=ThreadDispatcher(1))
    notifier.start()
    notifier.notify("orders", 1)
    assert begun.wait(20)
    notifier.unsubscribe(1, "orders")
    listener = notifier._lifecycle.listener
    eventually(lambda: next(iter(listener.deliverers.values()))._ending.is_retiring)
    notifier.add_channel("images")  # so the reader has checked again
    (status,) = notifier.status().dispatchers
    assert status.waiting == 1
    go_on.set()
    eventually(lambda: notifier.status().dispatchers == ())


def test_one_that_is_used_again(notifier, record, eventually):
    """A dispatcher that is used again before its deliverer has ended still delivers in order."""
    by = Closing()
    notifier.subscribe(0, "orders", lambda *_: None)
    notifier.start()
    for number in range(1, 30):
        notifier.subscribe(number, "orders", record, dispatcher=by)
        notifier.notify("orders", number)
        eventually(lambda number=number: len(record.calls) == number)
        notifier.unsubscribe(number, "orders")
    assert [one[0] for one in record.calls] == [*range(1, 30)]


def test_a_queue_that_nothing_goes_to_any_more(notifier):
    """A dispatcher without subscriptions affects neither readiness nor autorun."""

    class Queue(Closing):
        starts_listener = False

        def is_reachable(self):
            return False

    notifier.subscribe(1, "orders", print, dispatcher=Queue(), autorun=False)
    notifier.start()
    assert notifier.readiness_problems() != []
    notifier.unsubscribe(1, "orders")
    assert notifier.readiness_problems() == []
    notifier.stop()
    notifier.subscribe(2, "orders", print)
    assert notifier.is_running()


def test_its_own(notifier, record, eventually):
    """The notifier's own dispatcher stays without subscriptions."""
    notifier.subscribe(1, "orders", record)
    notifier.start()
    notifier.unsubscribe(1, "orders")
    notifier.subscribe(2, "orders", record)
    assert len(notifier._lifecycle.attachments.in_use) == 1


def by_rq():
    """Return an RQ dispatcher that isn't connected to Redis."""
    return RQDispatcher(Redis())


@pytest.mark.parametrize("make", [InlineDispatcher, ThreadDispatcher, AsyncioDispatcher, by_rq])
@pytest.mark.parametrize("ran", [False, True])
def test_a_notifier_that_is_dropped(pgnotifier_dsn, make, ran, eventually):
    """A notifier without references is freed, and its dispatcher can serve another notifier.

    A thread that has just ended may still have one.
    """
    by = make()
    notifier = Notifier(pgnotifier_dsn, dispatcher=by, daemon=True)
    notifier.subscribe(1, "orders", os.path.join, autorun=False)
    if ran and make is not AsyncioDispatcher:
        notifier.start()
        notifier.stop()
    gone = weakref.ref(notifier)
    del notifier
    eventually(lambda: gc.collect() is not None and gone() is None)
    Notifier(pgnotifier_dsn, dispatcher=by)
