"""Dispatchers whose last subscription has gone: nothing of them stays."""

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
    """Takes down that it was closed."""

    closed = 0

    def close(self):
        """Count."""
        self.closed += 1


def threads():
    """Return how many threads deliver."""
    return sum("Dispatcher" in one.name or "Closing" in one.name for one in threading.enumerate())


@pytest.mark.parametrize("make", [InlineDispatcher, ThreadDispatcher])
def test_a_dispatcher_for_each_subscription(notifier, record, make, eventually):
    """As one per request: neither the dispatcher nor its thread outlives the subscription."""
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
    """Nor is one kept that was subscribed with while nothing ran, or that refused."""
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
    """The former is closed once what waited for it has been handed on."""
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
    """It has all the time it needs, and `stop` waits for it."""
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
    for _ in range(3):  # the reader has looked
        notifier.add_channel("images")
        notifier.remove_channel("images")
    assert [one.name for one in notifier.status().dispatchers] == ["Closing"]
    threading.Timer(0.1, go_on.set).start()
    assert notifier.stop() == 0
    assert done == [1]


def test_a_thread_that_is_busy(notifier, eventually):
    """Nor does a dispatcher to threads go before these are done."""
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
    notifier.add_channel("images")  # the reader has looked once more
    (status,) = notifier.status().dispatchers
    assert status.waiting == 1
    go_on.set()
    eventually(lambda: notifier.status().dispatchers == ())


def test_one_that_is_used_again(notifier, record, eventually):
    """At once, before its deliverer has ended: it delivers on, and in order."""
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
    """It makes the notifier neither unready, nor one that doesn't start by itself."""

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
    """The notifier's own stays."""
    notifier.subscribe(1, "orders", record)
    notifier.start()
    notifier.unsubscribe(1, "orders")
    notifier.subscribe(2, "orders", record)
    assert len(notifier._lifecycle.attachments.in_use) == 1


def by_rq():
    """Return a dispatcher to Redis, which isn't connected."""
    return RQDispatcher(Redis())


@pytest.mark.parametrize("make", [InlineDispatcher, ThreadDispatcher, AsyncioDispatcher, by_rq])
@pytest.mark.parametrize("ran", [False, True])
def test_a_notifier_that_is_dropped(pgnotifier_dsn, make, ran):
    """It goes with its subscriptions, and its dispatcher can serve another one."""
    by = make()
    notifier = Notifier(pgnotifier_dsn, dispatcher=by, daemon=True)
    notifier.subscribe(1, "orders", os.path.join, autorun=False)
    if ran and make is not AsyncioDispatcher:
        notifier.start()
        notifier.stop()
    gone = weakref.ref(notifier)
    del notifier
    gc.collect()
    assert gone() is None
    Notifier(pgnotifier_dsn, dispatcher=by)
