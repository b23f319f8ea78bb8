"""A buffer: what waits for a deliverer, bounded by number and by bytes."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from pgnotifier._log.references import Reference
from pgnotifier._runtime.clock import Moment, stretch
from pgnotifier._runtime.log_records import LogThrottle, about, count
from pgnotifier.dispatch import Binding, Delivery
from pgnotifier.notification import Arrival, Gap, Notification
from pgnotifier.settings import Overflow

logger = logging.getLogger("pgnotifier.buffer")

BATCH_BYTES = 1024 * 1024
"""The most bytes of payloads in a batch. Some take fifty times as many once they are decoded."""
MORE = 100_000
"""How many items beyond the bound may come in while the server answers a query."""
REPORT_PAUSE = 1.0
"""Seconds between two reports of what was dropped."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """A notification that waits.

    The garbage collector doesn't track these structs. With tuples it would go through the whole of
    a full buffer again and again.

    Attributes:
        channel: The channel that it came on.
        bindings: Who gets it.
        data: Its payload as it came, in the encoding of the connection.
        pid: The process id of the notifying session's server process.
        received_at: When it was read.
        proven_at: Everything that was committed before this moment had been read earlier.
    """

    channel: str
    bindings: tuple[Binding, ...]
    data: bytes
    pid: int
    received_at: datetime
    proven_at: Moment

    def for_bindings(self, bindings: tuple[Binding, ...]) -> "Item":
        """Return the same item for other bindings."""
        return msgspec.structs.replace(self, bindings=bindings)

    def arrival(self, payload: Any) -> Notification:
        """Return the notification, with the payload that was made of the data."""
        data: Any = self.data  # an arrival makes its text of this when it is asked for it
        return Arrival(self.channel, payload, data, self.pid, self.received_at)


class ReferenceItem(Item, frozen=True, gc=False):
    """A notification with its payload in the log; its data is empty.

    Attributes:
        reference: Where the payload is.
    """

    reference: Reference

    def with_data(self, data: bytes) -> Item:
        """Return the notification with its payload."""
        known = (self.channel, self.bindings, data, self.pid, self.received_at, self.proven_at)
        return Item(*known)


_data = attrgetter("data")


class Trouble(NamedTuple):
    """Why a dispatcher makes no progress.

    Attributes:
        since: Since when; None if it makes progress.
        why: Why, in words.
    """

    since: datetime | None = None
    why: str | None = None


class GapMarker:
    """Marks where something may have been missed, and holds back what comes after it.

    Attributes:
        is_open: Whether what comes after it may be delivered.
        is_taken: Whether it has left the buffer.
        deliveries: What to deliver first.
    """

    def __init__(self, deliveries: Iterable[Delivery] | None = None) -> None:
        """Make a marker that holds back what comes after it, or an open one.

        Args:
            deliveries: What to deliver first. The marker is open if this is known by now.
        """
        self.is_open = deliveries is not None
        self.is_taken = False
        self.deliveries = tuple(deliveries or ())


class Buffer:
    """Items and markers in their order. Its deliverer guards it.

    Attributes:
        full: Whether the reader should pause: under `block`, until half of it is taken.
        dropped: How many items were dropped.
        trouble: Since when it is full.
    """

    def __init__(self, name: str, size: int, max_bytes: int, overflow: Overflow) -> None:
        """Make an empty one.

        Args:
            name: The dispatcher's name in logs and gaps.
            size: How many items may wait.
            max_bytes: How many bytes of payloads may wait.
            overflow: What to do with more.
        """
        self.full = False
        self.dropped = 0
        self.trouble = Trouble()
        self._name = name
        self._size = size
        self._max_bytes = max_bytes
        self._overflow = overflow
        self._content: deque[Item | GapMarker] = deque()
        self._bytes = 0
        self._markers = 0
        self._missed: tuple[Moment, frozenset[str], str] | None = None
        self._reported_at = 0.0
        self._warn = LogThrottle(logger)

    def __bool__(self) -> bool:
        """Return whether it holds anything, markers included."""
        return bool(self._content)

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._content) - self._markers

    @property
    def size(self) -> int:
        """How many bytes their payloads have."""
        return self._bytes

    @property
    def overfull(self) -> bool:
        """Whether it is so far beyond its bounds that nothing more may be added."""
        return self.waiting > self._size + MORE or self._bytes > 2 * self._max_bytes

    def put(self, items: Sequence[Item]) -> None:
        """Add items, and apply the overflow policy."""
        self._content.extend(items)
        self._bytes += _size_of(items)
        if not self._is_within(1):
            if self._overflow == "block":
                self._block()
            else:
                self._drop()

    def hold(self, marker: GapMarker) -> None:
        """Add a marker. It doesn't count towards the bounds, and is never dropped."""
        self._content.append(marker)
        self._markers += 1

    def may_take(self, *, draining: bool) -> bool:
        """Return whether something can be taken: an item, or a released marker.

        Args:
            draining: Whether a marker that wasn't released can be taken as well.
        """
        first = self._content[0] if self._content else None
        return first is not None and (draining or getattr(first, "is_open", True))

    def take(self, batch_size: int) -> list[Item | GapMarker]:
        """Return the first marker, the first reference, or enough items for a batch.

        The buffer mustn't be empty. A reference comes alone, as its payload may be large.

        Args:
            batch_size: How many deliveries they may make. The last item may make more.
        """
        content = self._content
        first = content[0]
        if type(first) is not Item:
            if isinstance(first, GapMarker):
                first.is_taken = True
                self._markers -= 1
            return [content.popleft()]
        items: list[Item | GapMarker] = []
        deliveries, size = batch_size, BATCH_BYTES
        while content and deliveries > 0 and size > 0:
            item = content.popleft()
            if type(item) is not Item:
                content.appendleft(item)
                break
            deliveries -= len(item.bindings)
            size -= len(item.data)
            items.append(item)
        self._bytes -= BATCH_BYTES - size
        return items

    def extract(self, is_other: Callable[[Binding], bool]) -> list[Item | Delivery]:
        """Take out and return what is for certain bindings, in order: an item for each of them."""
        found: list[Item | Delivery] = []
        left: deque[Item | GapMarker] = deque()
        for one in self._content:
            if isinstance(one, GapMarker):
                found += (each for each in one.deliveries if is_other(each.binding))
                one.deliveries = tuple(d for d in one.deliveries if not is_other(d.binding))
                left.append(one)
                continue
            others = [binding for binding in one.bindings if is_other(binding)]
            if not others:
                left.append(one)
                continue
            found += (one.for_bindings((binding,)) for binding in others)
            if len(others) < len(one.bindings):
                stay = tuple(binding for binding in one.bindings if binding not in others)
                left.append(one.for_bindings(stay))
            else:
                self._bytes -= _size_of([one])
        self._content = left
        return found

    def has_room_again(self) -> bool:
        """Return whether a reader that has paused may go on; True only once."""
        if not self.full or not self._is_within(0.5):
            return False
        self.full = False
        self.trouble = Trouble()
        extra = about("buffer_has_room", dispatcher=self._name)
        logger.info("the buffer of %s has room again", self._name, extra=extra)
        return True

    @property
    def has_missed(self) -> bool:
        """Whether something was missed that `take_missed` hasn't returned yet."""
        return self._missed is not None

    def take_missed(self, now: Moment, *, at_once: bool) -> Gap | None:
        """Return the gap of what was missed since the last call; at most one in a second.

        Args:
            now: The present.
            at_once: Whether to return it within the same second too, as there is no later call.
        """
        if self._missed is None or not (at_once or now.steady >= self._reported_at + REPORT_PAUSE):
            return None
        since, channels, why = self._missed
        self._missed = None
        self._reported_at = now.steady
        return Gap(*stretch(since, now), channels, why)

    def clear(self) -> None:
        """Forget all that waits."""
        self._content.clear()
        self._bytes = self._markers = 0

    def _is_within(self, share: float) -> bool:
        return self.waiting <= self._size * share and self._bytes <= self._max_bytes * share

    def _block(self) -> None:
        if not self.full:
            self.full = True
            self.trouble = Trouble(
                datetime.now(UTC), f"its buffer is full, of {self._size} at most"
            )
            self._warn(
                "the buffer of %s is full (%s, %s): nothing more is read from PostgreSQL "
                "until half of it is delivered",
                self._name,
                count(self.waiting, "notification"),
                count(self._bytes, "byte"),
                extra=about("buffer_full", dispatcher=self._name, count=self.waiting),
            )

    def _drop(self) -> None:
        oldest = self._overflow == "drop_oldest"
        take = self._content.popleft if oldest else self._content.pop
        lost: list[Item] = []
        passed: list[GapMarker] = []
        while not self._is_within(1):
            one = take()
            if isinstance(one, GapMarker):
                passed.append(one)
                self._markers -= 1
            else:
                lost.append(one)
                self._bytes -= len(one.data)
        put_back = self._content.extendleft if oldest else self._content.extend
        put_back(reversed(passed))
        self._markers += len(passed)
        self._note(lost)

    def _note(self, lost: Sequence[Item]) -> None:
        """Record what was dropped, for the next gap."""
        self._warn(
            "the buffer of %s is full (%s, %s): dropping the %s",
            self._name,
            count(self.waiting, "notification"),
            count(self._bytes, "byte"),
            self._overflow.removeprefix("drop_"),
            extra=about("dropping", dispatcher=self._name, count=len(lost)),
        )
        self.dropped += len(lost)
        self.miss(lost, f"the buffer of {self._name} was full")

    def miss(self, lost: Sequence[Item], why: str) -> None:
        """Have the next gap cover items that won't be delivered."""
        since = min(item.proven_at for item in lost)
        channels = frozenset(item.channel for item in lost)
        if self._missed is not None:
            since, channels = min(since, self._missed[0]), channels | self._missed[1]
        self._missed = since, channels, why


def _size_of(items: Sequence[Item]) -> int:
    return sum(map(len, map(_data, items)))
