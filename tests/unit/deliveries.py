"""Helpers for the tests of deliverers: a dispatcher, a gate, and functions to fill a buffer."""

import threading
from datetime import UTC, datetime

from pgnotifier import Dispatcher, Subscription
from pgnotifier._delivery.buffer import Item
from pgnotifier._runtime.clock import Moment
from pgnotifier.dispatch import Binding

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROVEN = Moment(0.0, NOW)


class Fake(Dispatcher):
    """Records batches, and calls `behave`, if given, with each one before delivering it."""

    def __init__(self, behave=None):
        self.batches = []
        self.delivered = []
        self.behave = behave

    def bind(self, subscription):
        return subscription.fn

    def dispatch(self, batch):
        self.batches.append([d.notification.payload for d in batch])
        if self.behave:
            self.behave(batch)
        self.delivered += (one.notification.payload for one in batch.one_by_one())


def bind(dispatcher, fn=print, id=1, report=lambda *_: None):
    return Binding(Subscription(id, "a", fn, dispatcher), fn, report)


def put(deliverer, bindings, *numbers, channel="a", proven_at=PROVEN):
    for number in numbers:
        data = str(number).encode()
        deliverer.inbox.append(Item(channel, tuple(bindings), data, 7, NOW, proven_at))
    deliverer.stow()
    deliverer.ring()


class Gate:
    """A callback or decoder that blocks at its first call until it is opened."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.calls = []

    def __call__(self, *args):
        self.calls.append(args[2] if len(args) > 2 else args[0])
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(20)
        return args[0]
