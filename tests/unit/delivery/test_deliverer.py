"""Deliverers with a dispatcher made for the tests: order, retries, overflow and decoding."""

import threading

import pytest
from deliveries import NOW, PROVEN, Fake, Gate, bind, put

from pgnotifier import InlineDispatcher
from pgnotifier._delivery.buffer import Item
from pgnotifier.payload import decode

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_order_and_batches(make_deliverer, eventually):
    """Notifications are delivered in order, in batches of limited size."""
    fake = Fake()
    deliverer = make_deliverer(fake, size=10_000)
    put(deliverer, [bind(fake)], *range(2500))
    deliverer.start()
    eventually(lambda: deliverer.delivered == 2500)
    assert fake.delivered == list(range(2500))
    assert [len(batch) for batch in fake.batches] == [1000, 1000, 500]
    assert deliverer.waiting == 0


def test_a_dispatcher_says_how_large_its_batches_are(make_deliverer, eventually):
    """A dispatcher's `batch_size` limits its batches."""
    fake = Fake()
    fake.batch_size = 40
    deliverer = make_deliverer(fake)
    put(deliverer, [bind(fake)], *range(100))
    deliverer.start()
    eventually(lambda: deliverer.delivered == 100)
    assert [len(batch) for batch in fake.batches] == [40, 40, 20]


def test_a_batch_counts_deliveries(make_deliverer, eventually):
    """A batch is limited by deliveries, but one notification isn't split across batches."""
    fake = Fake()
    deliverer = make_deliverer(fake)
    put(deliverer, [bind(fake, id=number) for number in range(300)], *range(5))
    put(deliverer, [bind(fake, id=number) for number in range(1100)], 5)
    deliverer.start()
    eventually(lambda: deliverer.delivered == 2600)
    assert [len(batch) for batch in fake.batches] == [1200, 300 + 1100]


def test_bindings_of_one_notification_come_in_turn(make_deliverer, eventually):
    """All subscriptions get a notification before any gets the next one."""
    calls = []
    inline = InlineDispatcher()

    def callback(id, channel, payload, pid):
        calls.append((id, payload))

    bindings = [bind(inline, callback, name) for name in "xyz"]
    deliverer = make_deliverer(inline)
    deliverer.start()
    put(deliverer, bindings, 1, 2)
    eventually(lambda: deliverer.delivered == 6)
    assert calls == [("x", 1), ("y", 1), ("z", 1), ("x", 2), ("y", 2), ("z", 2)]


def test_payloads_are_not_shared(make_deliverer, eventually):
    """Mutable payloads are decoded for each callback, immutable ones once."""
    fake, decoded = Fake(), []

    def counting(text):
        decoded.append(text)
        return decode(text)

    deliverer = make_deliverer(fake, decode=counting)
    deliverer.start()
    put(deliverer, [bind(fake), bind(fake, id=2)], "[1]", "text")
    eventually(lambda: deliverer.delivered == 4)
    assert decoded == ["[1]", "[1]", "text"]
    first, second, *_ = fake.delivered
    assert first == second
    assert first is not second


def test_a_failing_batch_is_tried_again(make_deliverer, eventually, caplog):
    """When a dispatcher raises, only the deliveries left in the batch are tried again."""
    fake = Fake()

    def fail_twice(batch):
        if len(fake.batches) <= 2:
            fake.delivered.append(batch[0].notification.payload)
            batch.done(1)
            raise ConnectionError("queue down")

    fake.behave = fail_twice
    deliverer = make_deliverer(fake)
    put(deliverer, [bind(fake)], *range(4))
    deliverer.start()
    eventually(lambda: deliverer.delivered == 4)
    assert fake.batches == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]
    assert fake.delivered == [0, 1, 2, 3]
    assert not deliverer.retrying
    (warned,) = caplog.messages
    assert "queue down" in warned


def test_retrying_shows_and_keeps_the_order(make_deliverer, eventually):
    """While a queue is down, `retrying` is True, and later notifications wait in order."""
    fake, up = Fake(), threading.Event()

    def down(batch):
        if not up.is_set():
            raise SystemExit  # as a client library might

    fake.behave = down
    deliverer = make_deliverer(fake)
    deliverer.start()
    put(deliverer, [bind(fake)], 1)
    eventually(lambda: deliverer.retrying)
    put(deliverer, [bind(fake)], 2, 3)
    assert deliverer.waiting == 3
    up.set()
    eventually(lambda: deliverer.delivered == 3)
    assert fake.delivered == [1, 2, 3]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_dropping(make_deliverer, eventually, overflow):
    """A full buffer drops its oldest or newest notifications, and accepts new ones."""
    gate, inline = Gate(), InlineDispatcher()
    deliverer = make_deliverer(inline, size=3, overflow=overflow)
    deliverer.start()
    put(deliverer, [bind(inline, gate)], 0)
    assert gate.reached.wait(20)
    put(deliverer, [bind(inline, gate)], 1, 2, 3)
    assert not deliverer.buffer.has_missed
    put(deliverer, [bind(inline, gate)], 4, 5, 6)
    assert deliverer.buffer.dropped == 3
    assert not deliverer.buffer.full
    assert deliverer.buffer.has_missed
    assert deliverer.take_missed().channels == {"a"}
    assert not deliverer.buffer.has_missed
    gate.opened.set()
    eventually(lambda: deliverer.delivered == 4)
    assert gate.calls == ([0, 4, 5, 6] if overflow == "drop_oldest" else [0, 1, 2, 3])


def test_blocking(make_deliverer, eventually, caplog):
    """A full buffer keeps everything, is reported as full, and says once that it has room."""
    gate, inline, room = Gate(), InlineDispatcher(), threading.Event()
    deliverer = make_deliverer(inline, size=2, on_room=room.set)
    deliverer.start()
    put(deliverer, [bind(inline, gate)], 0)
    assert gate.reached.wait(20)
    put(deliverer, [bind(inline, gate)], 1, 2)
    assert not deliverer.buffer.full
    put(deliverer, [bind(inline, gate)], 3)
    put(deliverer, [bind(inline, gate)], 4, 5)
    assert deliverer.buffer.full
    assert not room.is_set()
    gate.opened.set()
    assert room.wait(20)
    eventually(lambda: deliverer.delivered == 6)
    assert gate.calls == [0, 1, 2, 3, 4, 5]
    assert not deliverer.buffer.full
    assert deliverer.buffer.dropped == 0
    assert deliverer.take_missed() is None
    (warned,) = caplog.messages
    assert "is full" in warned


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_failing_decoder(make_deliverer, eventually, error):
    """A decoder's error is reported for each subscription, and the others are delivered."""
    fake, reports = Fake(), []

    def fail(text):
        if text == "1":
            raise error
        return text

    def report(exc, subscription, notification):
        reports.append((exc, subscription.id, notification.raw, notification.payload))

    deliverer = make_deliverer(fake, decode=fail)
    deliverer.start()
    put(deliverer, [bind(fake, id=name, report=report) for name in "xy"], 0, 1, 2)
    eventually(lambda: len(fake.delivered) == 4)
    assert fake.delivered == ["0", "0", "2", "2"]
    assert reports == [(error, "x", "1", None), (error, "y", "1", None)]


def test_bytes_that_are_not_unicode(make_deliverer, eventually):
    """Bytes that aren't UTF-8 are delivered as lone surrogates."""
    fake = Fake()
    deliverer = make_deliverer(fake)
    deliverer.inbox.append(Item("a", (bind(fake),), b"\xff\xfe ok", 7, NOW, PROVEN))
    deliverer.stow()
    deliverer.ring()
    deliverer.start()
    eventually(lambda: deliverer.delivered == 1)
    assert fake.delivered == ["\udcff\udcfe ok"]
