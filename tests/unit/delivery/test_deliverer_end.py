"""Deliverers that stop, and deliveries of subscriptions that have ended."""

import threading
from time import monotonic

import pytest
from deliveries import Fake, Gate, bind, put

from pgnotifier import InlineDispatcher

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_stop_delivers_the_rest(make_deliverer):
    """`stop` waits until everything received is delivered, if there is time."""
    fake = Fake()
    deliverer = make_deliverer(fake, size=10_000)
    put(deliverer, [bind(fake)], *range(3000))
    deliverer.start()
    assert deliverer.stop(monotonic() + 20) == 0
    assert fake.delivered == list(range(3000))


def test_stop_before_start(make_deliverer):
    """Stopping a deliverer that was never started returns at once."""
    assert make_deliverer(Fake()).stop(monotonic() + 20) == 0


def test_stop_gives_up_at_its_deadline(make_deliverer, eventually):
    """At the deadline, what waits behind a blocked callback is counted and never delivered."""
    gate, inline = Gate(), InlineDispatcher()
    deliverer = make_deliverer(inline)
    put(deliverer, [bind(inline, gate)], 0, 1, 2)
    deliverer.start()
    assert gate.reached.wait(20)
    put(deliverer, [bind(inline, gate)], 3, 4)
    begun = monotonic()
    assert deliverer.stop(begun + 0.1) == 4
    assert 0.1 <= monotonic() - begun < 15
    gate.opened.set()
    eventually(lambda: not deliverer.thread.is_alive())
    assert gate.calls == [0]


def test_stop_counts_a_callback_that_is_busy(make_deliverer, eventually):
    """A callback that hasn't returned by the deadline is counted."""
    gate, inline = Gate(), InlineDispatcher()
    deliverer = make_deliverer(inline)
    put(deliverer, [bind(inline, gate)], 0)
    deliverer.start()
    assert gate.reached.wait(20)
    assert deliverer.stop(monotonic() + 0.05) == 1
    gate.opened.set()
    eventually(lambda: not deliverer.thread.is_alive())


def test_stop_counts_what_is_being_decoded(make_deliverer, eventually):
    """What is being decoded at the deadline is counted and never delivered."""
    gate, fake = Gate(), Fake()
    deliverer = make_deliverer(fake, decode=gate)
    put(deliverer, [bind(fake)], 0, 1, 2)
    deliverer.start()
    assert gate.reached.wait(20)
    assert deliverer.waiting == 3
    assert deliverer.stop(monotonic() + 0.05) == 3
    gate.opened.set()
    eventually(lambda: not deliverer.thread.is_alive())
    assert fake.delivered == []


def test_stop_during_retries(make_deliverer, eventually):
    """A queue that stays down doesn't delay `stop` beyond the deadline."""
    fake = Fake()

    def down(batch):
        raise ConnectionError("queue down")

    fake.behave = down
    deliverer = make_deliverer(fake)
    put(deliverer, [bind(fake)], 0, 1)
    deliverer.start()
    eventually(lambda: len(fake.batches) > 1)
    assert deliverer.stop(monotonic() + 0.2) == 2


def test_stop_from_its_own_thread(make_deliverer, eventually):
    """`stop` in a callback doesn't wait for the callback; the rest is delivered."""
    inline, calls, returned = InlineDispatcher(), [], []
    deliverer = make_deliverer(inline)

    def callback(id, channel, payload, pid):
        calls.append(payload)
        returned.append(deliverer.stop(monotonic() + 20))

    put(deliverer, [bind(inline, callback)], 0, 1)
    deliverer.start()
    eventually(lambda: not deliverer.thread.is_alive())
    assert calls == [0, 1]
    assert returned == [0, 0]


def test_unsubscribed_while_queued(make_deliverer, eventually):
    """A notification that waits for a subscription isn't delivered once that has ended."""
    gate, inline = Gate(), InlineDispatcher()
    staying, leaving = bind(inline, gate), bind(inline, gate, id=2)
    deliverer = make_deliverer(inline)
    deliverer.start()
    put(deliverer, [staying], 0)
    assert gate.reached.wait(20)
    put(deliverer, [leaving], 1)
    put(deliverer, [staying, leaving], 2)
    leaving.live = False
    gate.opened.set()
    eventually(lambda: deliverer.waiting == 0 and len(gate.calls) == 2)
    assert gate.calls == [0, 2]


def test_unsubscribed_while_retrying(make_deliverer, eventually):
    """A delivery isn't tried again once its subscription has ended."""
    fake, up = Fake(), threading.Event()

    def down(batch):
        if not up.is_set():
            raise ConnectionError("queue down")

    fake.behave = down
    leaving = bind(fake, id=2)
    deliverer = make_deliverer(fake)
    put(deliverer, [leaving], 1)
    put(deliverer, [bind(fake)], 2)
    deliverer.start()
    eventually(lambda: deliverer.retrying)
    leaving.live = False
    eventually(lambda: fake.batches[-1] == [2])
    up.set()
    eventually(lambda: deliverer.waiting == 0)
    assert fake.delivered == [2]
