"""Portions: entries that stay together on their way to a relay."""

from datetime import UTC, datetime

import pytest
from deliveries import NOW, PROVEN, Fake, bind

from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.intake import Intake, PortionItem
from pgnotifier._delivery.portions import Portion, PortionBatch, Row
from pgnotifier._durable.receipt import Ledger, SharedReceipt
from pgnotifier.payload import decode

AT = datetime(2026, 1, 1, tzinfo=UTC)


def make_portion(binding, *ids):
    """Return the portion of entries with their numbers as payloads, and their ledger."""
    ledger = Ledger(ids, lambda: None)
    rows = [Row(one, AT, b"key", str(one).encode()) for one in ids]
    return Portion(binding, rows, NOW, SharedReceipt(ledger, binding.mutes)), ledger


def wrap(portion):
    """Return the item of a portion."""
    return PortionItem("a", (portion.binding,), b"", 0, NOW, PROVEN, portion=portion)


@pytest.fixture
def deliver(eventually):
    """Yield a function that hands a portion to a new deliverer, and returns the ledger."""
    made = []

    def deliver(dispatcher, binding, *ids):
        made.append(
            Deliverer(dispatcher, decode=decode, size=9, overflow="block", on_room=lambda: None)
        )
        made[-1].start()
        portion, ledger = make_portion(binding, *ids)
        assert made[-1].accept([wrap(portion)])
        del portion
        eventually(lambda: ledger.is_done or ledger.is_lost)
        eventually(lambda: made[-1].waiting == 0)
        return made[-1], ledger

    yield deliver
    for one in made:
        one.stop(0.0)


def test_a_batch_makes_its_deliveries():
    """Rows and deliveries are the same entries; acknowledging holds for both."""
    portion, _ = make_portion(bind(Fake()), 1, 2, 3)
    batch = PortionBatch(portion)
    assert (len(batch), batch.remaining, batch.waiting) == (3, 3, 3)
    batch.done(1)
    assert [row.id for row in batch.rows(1)] == [2]
    (second, third) = batch.rest()
    assert (second.notification.id, second.notification.raw) == (2, "2")
    assert (third.notification.key, third.notification.published_at) == ("key", AT)
    assert batch.rest()[0] is second
    batch.leave([third])
    assert batch.rows(9) == ()
    assert batch.rest() == (third,)
    batch.cancel()
    assert batch.rest() == ()


def test_a_cancelled_batch_has_no_rows():
    """What was given up isn't forwarded."""
    batch = PortionBatch(make_portion(bind(Fake()), 1, 2)[0])
    batch.cancel()
    assert batch.rows(9) == ()


def test_waiting_in_the_intake():
    """A portion counts as its entries, and is cut into batches that aren't too large."""
    binding, intake = bind(Fake()), Intake()
    intake.put([wrap(make_portion(binding, 1, 2, 3, 4, 5)[0])])
    intake.put([wrap(make_portion(binding, 6)[0])])
    assert intake.waiting == 6
    taken = [[row.id for one in intake.take(3) for row in one.portion.rows] for _ in range(4)]
    assert taken == [[1, 2, 3], [4, 5], [6], []]
    assert intake.waiting == 0


def test_delivering(deliver):
    """Any dispatcher can deliver it; all of it is settled and counted."""
    fake = Fake()
    one, ledger = deliver(fake, bind(fake), 1, 2, 3)
    assert ledger.is_done
    assert fake.delivered == ["1", "2", "3"]
    assert one.delivered == 3


def test_failing_in_the_middle(deliver):
    """What is left is tried again; what was reported has failed; the rest is settled."""

    def behave(batch):
        if len(batch) == 3:
            batch.rest(1)[0].report(ValueError("refused"))
            batch.done(1)
            raise ConnectionError("down")

    fake = Fake(behave)
    _, ledger = deliver(fake, bind(fake), 1, 2, 3)
    assert ledger.is_done
    assert list(ledger.failures) == [1]


def test_muting(deliver):
    """What is muted is lost, and not settled."""
    fake = Fake()
    binding = bind(fake)
    binding.live = False
    _, ledger = deliver(fake, binding, 1, 2)
    assert ledger.is_lost
    assert ledger.left == {1, 2}


def test_a_successor(deliver):
    """What waits for a binding that was replaced goes to the one that has replaced it."""
    fake = Fake()
    first, second = bind(fake), bind(fake)
    first.leave_to(second)
    _, ledger = deliver(fake, first, 1, 2)
    assert ledger.is_done
    assert fake.delivered == ["1", "2"]
