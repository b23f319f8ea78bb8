"""The intake: entries beside the buffer, in turn with it; what of a batch is settled."""

from datetime import UTC, datetime

import pytest
from deliveries import NOW, PROVEN, Fake, Gate, bind, put

from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.intake import EntryItem, Intake, settle_acknowledged
from pgnotifier._durable.receipt import Ledger, SharedReceipt
from pgnotifier.dispatch import Batch, Delivery
from pgnotifier.gathering import Batch as GatheredBatch
from pgnotifier.notification import Notification
from pgnotifier.payload import decode


def make_items(binding, *ids):
    """Return items of entries with their numbers as payloads, and their ledger."""
    ledger = Ledger(ids, lambda: None)
    receipt = SharedReceipt(ledger, binding.mutes)
    items = [
        EntryItem(
            "a", (binding,), str(one).encode(), 0, NOW, PROVEN,
            id=one, published_at=datetime(2026, 1, 1, tzinfo=UTC), receipt=receipt,
        )
        for one in ids
    ]  # fmt: skip
    return items, ledger


@pytest.fixture
def deliverer():
    """Yield a function that makes a deliverer that is running; it is stopped afterwards."""
    made = []

    def make(dispatcher):
        made.append(
            Deliverer(dispatcher, decode=decode, size=9, overflow="block", on_room=lambda: None)
        )
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop(0.0)


def test_taking_turns():
    """It takes turns with the buffer if both hold something."""
    intake = Intake()
    assert not intake.take_turn(others=True)
    intake.put(make_items(bind(Fake()), *range(9))[0])
    assert [intake.take_turn(others=True) for _ in range(4)] == [True, False, True, False]
    assert [intake.take_turn(others=False) for _ in range(2)] == [True, True]
    assert [one.id for one in intake.take(4)] == [0, 1, 2, 3]
    assert intake.waiting == 5


def test_entries_and_notifications(deliverer, eventually):
    """Both are delivered, and no overflow policy applies to entries."""
    gate = Gate()
    fake = Fake(lambda batch: gate(None, None, batch) if batch else None)
    one, binding = deliverer(fake), bind(fake)
    put(one, [binding], -1)
    assert gate.reached.wait(60)
    items, ledger = make_items(binding, *range(50))
    assert one.accept(items)
    put(one, [binding], -2)
    assert not one.buffer.full
    assert one.waiting >= 51
    gate.opened.set()
    eventually(lambda: sorted(fake.delivered) == [-2, -1, *range(50)])
    eventually(lambda: ledger.is_done)


def test_what_is_retried_is_not_settled(deliverer, eventually):
    """A batch that fails in the middle is settled as far as it is acknowledged."""
    gate = Gate()

    def behave(batch):
        if len(batch) == 3:
            batch.done(1)
            raise ConnectionError("down")
        gate(None, None, batch)

    fake = Fake(behave)
    one, binding = deliverer(fake), bind(fake)
    items, ledger = make_items(binding, 1, 2, 3)
    one.accept(items)
    assert gate.reached.wait(60)
    assert ledger.left == {2, 3}
    gate.opened.set()
    eventually(lambda: ledger.is_done)


def test_what_is_muted_is_not_settled(deliverer, eventually):
    """What a dispatcher leaves out, because its binding isn't live, is lost and not settled."""
    fake = Fake()
    one, binding = deliverer(fake), bind(fake)
    binding.live = False
    items, ledger = make_items(binding, 1, 2)
    one.accept(items)
    del items
    eventually(lambda: ledger.is_lost)
    assert ledger.left == {1, 2}


def test_stopping_drops_what_waits(deliverer):
    """What a deliverer hasn't begun when it is stopped is left to the log."""
    gate = Gate()
    fake = Fake(lambda batch: gate(None, None, batch) if batch else None)
    one, binding = deliverer(fake), bind(fake)
    items, ledger = make_items(binding, 1)
    one.accept(items)
    assert gate.reached.wait(60)
    more, other = make_items(binding, 2, 3)
    one.accept(more)
    del more
    one.drain()
    assert not one.accept(make_items(binding, 4)[0])
    gate.opened.set()
    one.thread.join(60)
    assert ledger.is_done
    assert other.is_lost
    assert fake.delivered == [1]


def test_replacements():
    """A replacement that is left stands for the entries that it has."""
    binding = bind(Fake())
    binding.gathering = GatheredBatch(9, 1.0)
    items, ledger = make_items(binding, 1, 2, 3)
    parts = tuple(one.arrival(one.id) for one in items)
    whole = Delivery(binding, parts[-1])
    gathered = Delivery(binding, type(parts[-1])("a", [1, 2, 3], "", 0, NOW, 3, parts))
    left = Delivery(binding, type(parts[-1])("a", [2], "", 0, NOW, 1, parts[1:2]))
    settle_acknowledged(Batch([gathered]), [left])
    assert ledger.left == {2}
    assert whole.identify() == Delivery(binding, parts[-1]).identify()
    assert whole.identify() != Delivery(binding, parts[0]).identify()


def test_dispatchers_that_settle_themselves(deliverer, eventually):
    """What a dispatcher with `settles_itself` has acknowledged isn't settled for it."""

    class Handing(Fake):
        settles_itself = True

    fake = Handing()
    one, binding = deliverer(fake), bind(fake)
    items, ledger = make_items(binding, 1)
    one.accept(items)
    eventually(lambda: fake.delivered == [1])
    assert not ledger.is_done
    Delivery(binding, items[0].arrival(1)).settle()
    assert ledger.is_done


def test_what_a_batch_settles():
    """Of several subscriptions and reads, all is settled, unless it was muted since it was read."""
    bindings = [bind(Fake()) for _ in range(3)]
    read = [
        make_items(one, *numbers)
        for one, numbers in zip(bindings, ((1, 2), (1,), (3, 4)), strict=True)
    ]
    again, later = make_items(bindings[0], 5)
    bindings[2].mutes += 1
    items = [one for items, _ in read for one in items]
    mixed = [items[0], items[3], again[0], items[2], items[1], items[4]]
    deliveries = [Delivery(one.bindings[0], one.arrival(one.id)) for one in mixed]
    deliveries.insert(1, Delivery(bindings[0], Notification("a", 1, "", 0, NOW)))
    settle_acknowledged(Batch(deliveries), ())
    assert [ledger.left for _, ledger in read] == [set(), set(), {3, 4}]
    assert later.is_done
