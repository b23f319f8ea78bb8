"""Buffers: their bounds, and what happens to notifications beyond them."""

import gc
import itertools
from datetime import timedelta

import pytest
from deliveries import NOW, PROVEN

from pgnotifier._delivery.buffer import (
    BATCH_BYTES,
    REPORT_PAUSE,
    Buffer,
    GapMarker,
    Item,
    ReferenceItem,
)
from pgnotifier._log.references import Reference
from pgnotifier._runtime.clock import Moment

BATCH = 1000
LATER = Moment(100.0, NOW + timedelta(seconds=100))


def item(number, channel="a", proven_at=PROVEN, size=1):
    return Item(channel, ("binding",), str(number).encode().rjust(size), 7, NOW, proven_at)


def make(overflow="block", size=3, max_bytes=1000):
    return Buffer("Fake", size, max_bytes, overflow)


def numbers(buffer):
    """Take everything out of the buffer, and return it."""
    found = []
    while buffer:
        found += [
            "barrier" if isinstance(one, GapMarker) else int(one.data) for one in buffer.take(BATCH)
        ]
    return found


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [4, 5, 6]), ("drop_newest", [1, 2, 3])]
)
@pytest.mark.parametrize("bound", [{"size": 3}, {"size": 100, "max_bytes": 300}])
def test_dropping(overflow, kept, bound):
    """Notifications beyond the bound in number or in bytes are dropped and counted."""
    buffer = make(overflow, **bound)
    buffer.put([item(number, size=100) for number in (1, 2, 3)])
    assert buffer.dropped == 0
    buffer.put([item(number, size=100) for number in (4, 5, 6)])
    assert buffer.dropped == 3
    assert not buffer.full
    assert numbers(buffer) == kept


def test_a_payload_may_push_out_several():
    """A large payload replaces several small ones, as the bytes count."""
    buffer = make("drop_oldest", size=100, max_bytes=300)
    buffer.put([item(number, size=100) for number in (1, 2, 3)])
    buffer.put([item(4, size=250)])
    assert buffer.dropped == 3
    assert numbers(buffer) == [4]


def test_bytes_are_given_back():
    """Notifications that were taken or dropped no longer count, even after many rounds."""
    buffer = make("drop_oldest", size=100, max_bytes=500)
    for number in range(3000):
        buffer.put([item(number, size=100) for _ in range(7 if number % 10 == 0 else 1)])
        assert buffer.dropped == 2 * (number // 10 + 1)
        assert len(numbers(buffer)) == (5 if number % 10 == 0 else 1)


def test_one_gap_for_what_was_dropped():
    """The gap begins at the proof of the oldest that was dropped, for all their channels."""
    buffer = make("drop_newest", size=1)
    first, second = (Moment(at, NOW + timedelta(seconds=at)) for at in (5.0, 9.0))
    buffer.put([item(1)])
    buffer.put([item(2, "b", first), item(3, "b", second)])
    buffer.put([item(4, "c", second)])
    assert buffer.has_missed
    gap = buffer.take_missed(LATER, at_once=False)
    assert (gap.since, gap.until, gap.channels) == (first.wall, LATER.wall, {"b", "c"})
    assert "Fake" in gap.reason
    assert not buffer.has_missed
    assert buffer.take_missed(LATER, at_once=True) is None


def test_gaps_are_reported_once_a_second():
    """While notifications are dropped, a gap is reported once a second, and the last at once."""
    buffer = make("drop_newest", size=1)
    reported = []
    for n in range(100):
        now = Moment(100.0 + n / 10, NOW + timedelta(seconds=n / 10))
        buffer.put([item(n, proven_at=now), item(n, proven_at=now)])
        if gap := buffer.take_missed(now, at_once=False):
            reported.append(gap)
    assert 9 <= len(reported) <= 1 + 10 / REPORT_PAUSE
    assert all(a.until <= b.since for a, b in itertools.pairwise(reported))
    assert buffer.has_missed
    assert buffer.take_missed(now, at_once=True)


def test_markers_are_never_dropped():
    """Markers aren't dropped, and keep their place among the notifications that are left."""
    for overflow, kept in (
        ("drop_oldest", ["barrier", "barrier", 3, 4, "barrier", 5, 6]),
        ("drop_newest", [1, "barrier", "barrier", 2, 3, 4, "barrier"]),
    ):
        buffer = make(overflow, size=4)
        buffer.put([item(1)])
        buffer.hold(GapMarker())
        buffer.hold(GapMarker())
        buffer.put([item(2), item(3)])
        buffer.put([item(4)])
        buffer.hold(GapMarker())
        buffer.put([item(5), item(6)])
        assert buffer.dropped == 2
        assert buffer.waiting == 4
        assert numbers(buffer) == kept


def test_blocking_by_bytes(caplog):
    """A buffer that is full by bytes has room again when half of them were taken."""
    buffer = make(size=10_000, max_bytes=4 * BATCH_BYTES)
    for number in range(5):
        buffer.put([item(number, size=BATCH_BYTES)])
    assert buffer.full
    rooms = []
    while buffer:
        assert len(buffer.take(BATCH)) == 1
        rooms.append(buffer.has_room_again())
    assert rooms == [False, False, True, False, False]
    assert not buffer.full
    assert buffer.dropped == 0
    (warned,) = caplog.messages
    assert "5 notifications, 5242880 bytes" in warned


def test_batches_are_bounded_by_bytes():
    """Batches of long payloads are small, because decoded payloads take much memory."""
    buffer = make(size=10_000, max_bytes=10**9)
    buffer.put([item(number, size=8000) for number in range(500)])
    assert len(buffer.take(BATCH)) == BATCH_BYTES // 8000 + 1


def test_markers_hold():
    """A closed marker stops everything, except for draining; once open, it is taken alone."""
    buffer, barrier = make(), GapMarker()
    buffer.hold(barrier)
    buffer.put([item(1)])
    assert not buffer.may_take(draining=False)
    assert buffer.may_take(draining=True)
    barrier.is_open = True
    assert buffer.may_take(draining=False)
    assert not barrier.is_taken
    assert buffer.take(BATCH) == [barrier]
    assert barrier.is_taken
    assert numbers(buffer) == [1]
    assert not buffer.may_take(draining=True)


def test_the_garbage_collector_has_nothing_to_look_at():
    """The garbage collector doesn't track items, so a full buffer isn't scanned again and again."""
    assert not gc.is_tracked(item(1))


def refer(number):
    """Return a notification with its payload in the log."""
    return ReferenceItem("a", ("binding",), b"", 7, NOW, PROVEN, Reference(1, number))


def test_a_reference_is_taken_alone():
    """Each reference is a batch of its own, in order: their payloads may be large."""
    buffer = make(size=100)
    buffer.put([item(1), item(2), refer(3), refer(4), item(5)])
    buffer.hold(GapMarker([]))
    buffer.put([refer(6)])
    taken = []
    while buffer:
        taken.append(buffer.take(BATCH))
    assert [[type(one) for one in batch] for batch in taken] == [
        [Item, Item],
        [ReferenceItem],
        [ReferenceItem],
        [Item],
        [GapMarker],
        [ReferenceItem],
    ]
    assert taken[1][0].with_data(b"3") == Item("a", ("binding",), b"3", 7, NOW, PROVEN)
    assert taken[1][0].for_bindings(()).reference == Reference(1, 3)


def test_a_gap_for_what_is_missing():
    """What can't be read makes a gap as what is dropped does; it doesn't count as dropped."""
    buffer = make("drop_oldest", size=1)
    buffer.miss([refer(1)], "it is gone")
    assert buffer.has_missed
    buffer.put([item(1, channel="b"), item(2)])
    buffer.miss([refer(1)], "it is gone")
    gap = buffer.take_missed(LATER, at_once=False)
    assert (gap.channels, gap.reason) == ({"a", "b"}, "it is gone")
    assert buffer.dropped == 1
    assert not buffer.has_missed
