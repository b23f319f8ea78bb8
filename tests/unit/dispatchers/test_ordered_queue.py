"""Lanes: their order, their bounds, and how workers are woken and counted."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from pgnotifier import Batch, Delivery, Notification, Subscription
from pgnotifier.dispatch import Binding
from pgnotifier.dispatchers.ordered_queue import Lanes

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def binding(lanes, id, channel="a", **given):
    subscription = Subscription(id, channel, print, None, **given)
    return Binding(subscription, SimpleNamespace(lane=lanes.lane(subscription)), print)


def batch(*pairs):
    return Batch(Delivery(b, Notification("a", n, str(n), 1, NOW)) for b, n in pairs)


def take_all(lanes):
    """Return the deliveries that may begin now."""
    turns = []
    while turn := lanes.take():
        turns.append(turn)
    return turns


def payloads(turns):
    return [delivery.notification.payload for _, delivery in turns]


def test_one_of_a_lane_at_a_time():
    """A subscription's next delivery begins when the one before is done; others don't wait."""
    lanes = Lanes(100, ordered=True)
    one, two = binding(lanes, 1), binding(lanes, 2)
    lanes.put(batch((one, 1), (one, 2), (two, 3), (one, 4)))
    turns = take_all(lanes)
    assert payloads(turns) == [1, 3]
    lanes.done(turns[1][0])
    assert lanes.take() is None
    lanes.done(turns[0][0])
    (turn,) = take_all(lanes)
    assert payloads([turn]) == [2]
    assert lanes.pending == 2


def test_without_order_all_begin():
    """Without order, deliveries of a subscription don't wait for each other."""
    lanes = Lanes(100, ordered=False)
    one = binding(lanes, 1)
    lanes.put(batch((one, 1), (one, 2)))
    assert payloads(take_all(lanes)) == [1, 2]


def test_it_is_bounded():
    """A delivery for which there is no room stays in the batch."""
    lanes = Lanes(2, ordered=True)
    one, two, three = (binding(lanes, n) for n in (1, 2, 3))
    waiting = batch((one, 1), (two, 2), (three, 3))
    lanes.put(waiting)
    assert waiting.remaining == 1
    lanes.put(waiting)
    assert waiting.remaining == 1
    lanes.done(take_all(lanes)[0][0])
    lanes.put(waiting)
    assert not waiting.remaining


def test_what_is_no_longer_live_is_left_out():
    """A delivery that isn't live any more is left out, and isn't counted."""
    lanes = Lanes(2, ordered=True)
    one = binding(lanes, 1)
    one.live = False
    lanes.put(batch((one, 1)))
    assert not lanes.ready
    assert lanes.pending == 0


def test_clearing():
    """`clear` returns what hasn't begun; a lane goes on once its current delivery is done."""
    lanes = Lanes(100, ordered=True)
    one, two = binding(lanes, 1), binding(lanes, 2)
    lanes.put(batch((one, 1), (one, 2), (two, 3)))
    begun = lanes.take()
    assert sorted(delivery.notification.payload for delivery in lanes.clear()) == [2, 3]
    assert lanes.pending == 1
    lanes.put(batch((one, 4), (two, 5)))
    assert payloads(take_all(lanes)) == [5]
    lanes.done(begun[0])
    assert payloads(take_all(lanes)) == [4]


@pytest.mark.parametrize(
    ("id", "gap"), [("a", ("a", "gap")), (("a",), ("a", "gap")), (("a", 1), ("a", 1, "gap"))]
)
def test_gaps_share_a_lane(id, gap):
    """A subscription's gaps share its lane, and other subscriptions don't."""
    lanes = Lanes(1, ordered=True)
    subscription = Subscription(id, "a", print, None, on_gap=print)
    for_gaps = subscription.for_gaps()
    assert for_gaps.id == gap
    lane = lanes.lane(subscription)
    assert lanes.lane(for_gaps) is lane
    assert lanes.lane(Subscription(gap, "a", print, None)) is not lane
    assert lanes.lane(Subscription(id, "b", print, None)) is not lane


def test_dismissed():
    """`dismiss` ends the wait of the workers, until there is a new delivery."""
    lanes = Lanes(1, ordered=True)
    lanes.dismiss()
    assert lanes.wait(60) is None
    lanes.put(batch((binding(lanes, 1), 1)))
    assert payloads([lanes.wait(60)]) == [1]


def test_who_ends_is_counted_no_longer():
    """A worker that found nothing isn't counted, so a new one is started for new deliveries."""
    lanes = Lanes(10, ordered=True)
    one = binding(lanes, 1)
    lanes.put(batch((one, 1)))
    assert lanes.hire(1) == 1
    assert lanes.hire(1) == 0
    lane, _ = lanes.wait(0)
    lanes.done(lane)
    assert lanes.wait(0) is None
    lanes.put(batch((one, 2)))
    assert lanes.hire(1) == 1


def test_muted_while_waiting():
    """A delivery is left out if it is muted when its turn comes, not if it is unmuted by then."""
    lanes = Lanes(10, ordered=True)
    one, two = binding(lanes, 1), binding(lanes, 2)
    lanes.put(batch((one, 1), (one, 2), (two, 3), (one, 4)))
    lane, _ = lanes.take()
    one.live = False
    assert payloads(take_all(lanes)) == [3]
    lanes.done(lane)
    assert lanes.take() is None
    assert lanes.pending == 1
    one.live = True
    lanes.put(batch((one, 5)))
    assert payloads(take_all(lanes)) == [5]


def test_taking_back():
    """`take_back` returns a binding's deliveries in order, and the lane goes on with the rest."""
    lanes = Lanes(10, ordered=True)
    one, two = binding(lanes, 1), binding(lanes, 2)
    for_gaps = Subscription((1, "gap"), "a", print, None, delivers_gaps=True)
    gap = Binding(for_gaps, SimpleNamespace(lane=lanes.lane(for_gaps)), print)
    assert gap.target.lane is one.target.lane
    lanes.put(batch((one, 1), (two, 2), (gap, 3), (one, 4)))
    found = lanes.take_back(one)
    assert [delivery.notification.payload for delivery in found] == [1, 4]
    assert payloads(take_all(lanes)) == [2, 3]
    assert lanes.pending == 2
