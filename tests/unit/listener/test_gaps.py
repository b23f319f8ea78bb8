"""Holds: what is read after a gap is delivered after it, once the hold is released."""

from datetime import timedelta

import pytest
from deliveries import NOW, Fake, bind, put
from waiting import eventually

from pgnotifier._listener.gaps import GapHold
from pgnotifier.dispatch import Delivery
from pgnotifier.notification import Gap


def make_gap(reason):
    """Return a gap of a minute, with a reason."""
    return Gap(NOW, NOW + timedelta(minutes=1), frozenset("a"), reason)


@pytest.fixture
def fake():
    """Return a dispatcher that records its batches."""
    return Fake()


@pytest.fixture
def deliverer(make_deliverer, fake):
    """Return a running deliverer."""
    deliverer = make_deliverer(fake)
    deliverer.start()
    return deliverer


@pytest.fixture
def deliver(fake):
    """Return a function that makes the deliveries of gaps for one subscription."""
    binding = bind(fake, id="gap")
    return lambda gaps: [Delivery(binding, gap.to_notification("a")) for gap in gaps]


def reasons(fake):
    """Return what was delivered, with the reason for each gap."""
    return [one["reason"] if isinstance(one, dict) else one for one in fake.delivered]


def test_gaps_are_delivered_before_what_is_held(deliverer, fake, deliver):
    """The gap is delivered before what was read after it; what was read before isn't held."""
    hold = GapHold()
    put(deliverer, [bind(fake)], 1)
    hold.hold(deliverer)
    put(deliverer, [bind(fake)], 2)
    eventually(lambda: reasons(fake) == [1])
    hold.add([make_gap("cut")], deliver)
    assert hold.awaits_users
    hold.release()
    eventually(lambda: reasons(fake) == [1, "cut", 2])
    assert not hold.awaits_users


def test_a_released_hold_holds_nothing(deliverer, fake):
    """After the release, a deliverer that is added later isn't held back."""
    hold = GapHold()
    hold.release()
    hold.hold(deliverer)
    put(deliverer, [bind(fake)], 1)
    eventually(lambda: reasons(fake) == [1])


def test_gaps_that_wait_become_one(deliverer, fake, deliver):
    """Gaps that wait for the release are delivered as one."""
    hold = GapHold()
    hold.hold(deliverer)
    hold.add([make_gap("first")], deliver)
    hold.add([make_gap("second"), make_gap("third")], deliver)
    put(deliverer, [bind(fake)], 1)
    hold.release()
    eventually(lambda: reasons(fake) == ["third", 1])


def test_a_gap_that_is_added_after_the_release(deliverer, fake, deliver):
    """A gap added after a release is delivered after what was read before, at the next release."""
    hold = GapHold()
    hold.hold(deliverer)
    hold.release()
    put(deliverer, [bind(fake)], 1)
    hold.add([make_gap("late")], deliver)
    hold.release()
    put(deliverer, [bind(fake)], 2)
    eventually(lambda: reasons(fake) == [1, "late", 2])


def test_a_gap_goes_to_the_dispatcher_that_a_subscription_moved_to(make_deliverer, deliverer, fake):
    """A gap is delivered by the subscription's new dispatcher, before what that one holds back."""
    other = Fake()
    second = make_deliverer(other)
    second.start()
    former, successor = bind(fake, id="gap"), bind(other, id="gap")
    former.successor = successor
    hold = GapHold()
    hold.hold(deliverer)
    hold.hold(second)
    hold.add(
        [make_gap("cut")], lambda gaps: [Delivery(former, g.to_notification("a")) for g in gaps]
    )
    put(second, [bind(other)], 1)
    hold.release()
    eventually(lambda: reasons(other) == ["cut", 1])
    assert fake.delivered == []
