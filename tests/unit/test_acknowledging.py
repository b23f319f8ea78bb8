"""Batches: what is acknowledged, what is left, and what happens to the rest."""

import threading
from datetime import UTC, datetime
from time import monotonic
from types import SimpleNamespace

import pytest
from deliveries import Fake, Gate, bind, put

from pgnotifier import Batch, BatchError, Delivery, InlineDispatcher, Notification, ThreadDispatcher

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make(count, passed_on=None):
    """Return a batch with that many deliveries."""
    binding = SimpleNamespace(
        live=True, successor=None if passed_on is None else 1, passed_on=passed_on
    )
    notifications = (Notification("a", n, str(n), 1, NOW) for n in range(count))
    return Batch(Delivery(binding, one) for one in notifications)


def payloads(deliveries):
    return [one.notification.payload for one in deliveries]


def test_it_is_a_sequence_that_does_not_change():
    """A batch is a sequence of the same deliveries, whatever is acknowledged."""
    batch = make(4)
    before = list(batch)
    batch.done(2)
    batch.leave(before[:1])
    batch.cancel()
    assert list(batch) == before
    assert len(batch) == 4
    assert batch[3] is before[3]
    assert batch[1:3] == tuple(before[1:3])
    assert before[2] in batch
    with pytest.raises(TypeError):
        batch[0] = before[1]


def test_done():
    """`done` acknowledges the first deliveries; `rest` returns those that follow."""
    batch = make(5)
    batch.done(0)
    assert payloads(batch.rest()) == [0, 1, 2, 3, 4]
    batch.done(2)
    assert payloads(batch.rest()) == [2, 3, 4]
    assert payloads(batch.rest(2)) == [2, 3]
    assert batch.remaining == 3
    batch.done(3)
    assert batch.rest() == batch.rest(1) == ()


@pytest.mark.parametrize("count", [-1, 3, 1.5])
def test_more_than_is_left(count):
    """An invalid count is refused, and nothing is acknowledged."""
    batch = make(4)
    batch.done(2)
    with pytest.raises(BatchError, match=rf"done\({count}\): 2 of 4 deliveries are left"):
        batch.done(count)
    assert batch.remaining == 2


def test_leaving():
    """`leave` sets which deliveries are left, in which order; they may be from elsewhere."""
    batch, other = make(4), make(1)
    batch.done(1)
    batch.leave([other[0], *batch.rest()[1:]])
    assert batch.rest() == (other[0], batch[2], batch[3])
    batch.done(2)
    assert payloads(batch.rest()) == [3]
    batch.leave(one for one in batch.rest() if one.notification.payload != 3)
    assert batch.remaining == 0


def test_one_by_one():
    """A delivery is acknowledged when the next one is asked for; the current one isn't waiting."""
    batch = make(3)
    found = [(len(batch.rest()), batch.waiting) for _ in batch.one_by_one()]
    assert found == [(3, 2), (2, 1), (1, 0)]
    assert batch.remaining == batch.waiting == 0


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_exception_leaves_the_one_in_hand(at):
    """An exception in the loop leaves the current delivery and those after it."""
    batch = make(3)
    with pytest.raises(ConnectionError):
        for one in batch.one_by_one():
            if one.notification.payload == at:
                raise ConnectionError
    assert payloads(batch.rest()) == [0, 1, 2][at:]


def test_a_break_leaves_the_one_in_hand():
    """After a break, a new loop begins with the delivery at which the first one ended."""
    batch = make(3)
    for one in batch.one_by_one():
        if one.notification.payload == 1:
            break
    assert payloads(batch.one_by_one()) == [1, 2]


def test_leaving_amid_one_by_one():
    """`leave` within the loop ends it, and what is left is what was given."""
    batch, other = make(3), make(1)
    for one in batch.one_by_one():
        assert one is batch[0]
        batch.leave([other[0], *batch.rest()[1:]])
    assert batch.rest() == (other[0], batch[1], batch[2])


def test_a_loop_that_is_kept():
    """The current delivery is left, even if the loop's generator is never closed."""
    batch = make(3)
    kept = batch.one_by_one()
    next(kept)
    next(kept)
    assert payloads(batch.rest()) == [1, 2]


def test_what_is_not_live_is_passed_on():
    """A delivery that ends during the loop isn't yielded, but passed on to its successor."""
    passed_on = []
    batch = make(3, passed_on)
    for _ in batch.one_by_one():
        batch[0].binding.live = False
    assert passed_on == [batch[1], batch[2]]
    assert batch.remaining == 0


def test_cancelled():
    """A cancelled batch has nothing left, and acknowledging a delivery has no effect."""
    batch = make(5)
    assert not batch.is_cancelled
    assert [one.notification.payload for one in batch.one_by_one() if not batch.cancel()] == [0]
    assert batch.is_cancelled
    assert batch.rest() == ()
    assert batch.remaining == 0
    batch.done(4)
    batch.leave(batch)
    assert batch.remaining == 0


@pytest.mark.usefixtures("short_pauses")
def test_returning_too_early(make_deliverer, eventually, caplog):
    """What `dispatch` left unacknowledged is tried again, and the log says how much that was."""

    class Hasty(Fake):
        def dispatch(self, batch):
            self.batches.append(payloads(batch))
            batch.done(1)

    hasty = Hasty()
    deliverer = make_deliverer(hasty)
    put(deliverer, [bind(hasty)], *range(3))
    deliverer.start()
    eventually(lambda: deliverer.delivered == 3)
    assert hasty.batches == [[0, 1, 2], [1, 2], [2]]
    (warned,) = caplog.messages
    assert "BatchError: dispatch() returned with 2 of 3 deliveries not acknowledged" in warned
    assert not deliverer.retrying


@pytest.mark.usefixtures("short_pauses")
def test_done_out_of_order(make_deliverer, eventually):
    """Only the deliveries that are left are tried again, and each one counts once."""

    class Two(Fake):
        def dispatch(self, batch):
            self.batches.append(payloads(batch))
            if len(self.batches) == 1:
                batch.leave(one for one in batch if one.notification.payload % 2)
                raise ConnectionError("one of two servers is down")
            batch.done(len(batch))

    two = Two()
    deliverer = make_deliverer(two)
    put(deliverer, [bind(two)], *range(5))
    deliverer.start()
    eventually(lambda: deliverer.delivered == 5)
    assert two.batches == [[0, 1, 2, 3, 4], [1, 3]]


def test_stopping_amid_a_batch(make_deliverer, eventually):
    """On `stop` the batch is cancelled, and its dispatcher isn't called again if it raises."""
    seen = []

    class Stuck(Fake):
        def dispatch(self, batch):
            batch.done(1)
            seen.append(batch)
            while not batch.is_cancelled:
                threading.Event().wait(0.01)
            batch.done(1)
            raise ConnectionError("gone")

    stuck = Stuck()
    deliverer = make_deliverer(stuck)
    put(deliverer, [bind(stuck)], *range(4))
    deliverer.start()
    eventually(lambda: seen)
    assert deliverer.stop(monotonic() + 0.05) == 3
    eventually(lambda: not deliverer.thread.is_alive())
    assert len(seen) == 1
    assert deliverer.waiting == 0


def test_stopping_while_another_dispatcher_is_helped(make_deliverer, eventually):
    """On `stop`, deliveries for another dispatcher that has ended are given up as well."""
    gate, inline, full = Gate(), InlineDispatcher(), ThreadDispatcher(1, max_pending=1)
    deliverer = make_deliverer(inline)
    release = threading.Event()
    running = bind_to(full, lambda *_: release.wait(120))
    full.dispatch(Batch([Delivery(running, Notification("a", 0, "", 1, NOW))]))
    old, new = bind(inline, gate), bind_to(full, print)
    put(deliverer, [old], 1, 2)
    deliverer.start()
    assert gate.reached.wait(20)
    old.live, old.successor = False, new
    deliverer.succession.note(old)
    gate.opened.set()
    batches = deliverer._attempts._batches
    eventually(lambda: len(batches) == 1 and batches[0][0].binding is new)
    deliverer.stop(monotonic() + 0.05)
    try:
        eventually(lambda: not deliverer.thread.is_alive())
    finally:
        release.set()
        full.close()


def bind_to(dispatcher, fn):
    """Return a binding with the target that the dispatcher makes."""
    binding = bind(dispatcher, fn)
    binding.target = dispatcher.bind(binding.subscription)
    return binding
