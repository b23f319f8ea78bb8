"""Batching and debouncing: deliveries are held back until their batch is full or they are due."""

import heapq
import itertools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from sys import getsizeof

from msgspec.structs import replace

from pgnotifier.dispatch import Binding, Delivery
from pgnotifier.gathering import Batch, Debounce

SPARE = 64
"""How many due times the heap may have beyond twice the number of open batches."""


@dataclass(slots=True)
class _Open:
    """What is being gathered for one delivery."""

    binding: Binding
    number: int
    due_at: float  # by time.monotonic()
    ends_at: float
    count: int = 0
    size: int = 0  # of their texts
    key_size: int = 0
    parts: list[Delivery] = field(default_factory=list)  # of a debounce, the latest alone

    def replace(self, delivery: Delivery) -> None:
        """Hold only this delivery, which replaces those before it."""
        for one in self.parts:
            one.settle()
        self.parts, self.size = [], 0
        self.add(delivery)

    def add(self, delivery: Delivery) -> None:
        """Hold this delivery too."""
        self.parts.append(delivery)
        self.size += len(delivery.notification.raw)
        self.count += 1

    def close(self) -> Delivery:
        """Return the delivery that it becomes."""
        latest = self.parts[-1].notification
        if isinstance(self.binding.gathering, Batch):
            parts = tuple(part.notification for part in self.parts)
            payload = [part.payload for part in parts]
            made = replace(latest, payload=payload, count=self.count, parts=parts)
        else:
            made = replace(latest, count=self.count)
        return Delivery(self.binding, made)


class Gatherer:
    """Holds back the deliveries of subscriptions that gather; owned by a deliverer's thread.

    Attributes:
        waiting: How many deliveries it holds.
    """

    def __init__(self, limit: int, max_size: int) -> None:
        """Make one.

        Args:
            limit: How many deliveries to hold. Beyond that, the oldest batch goes early.
            max_size: How many characters of text to hold. Beyond that, too, the oldest goes early.
        """
        self.waiting = 0
        self._limit = limit
        self._size = 0
        self._max_size = max_size
        self._open: dict[Hashable, _Open] = {}  # in the order in which they are to go
        self._due: list[tuple[float, int, Hashable]] = []  # a heap; times may be too early
        self._numbers = itertools.count()

    @property
    def due_at(self) -> float | None:
        """When something may be due, by `time.monotonic()`."""
        return self._due[0][0] if self._due else None

    def add(self, delivery: Delivery, now: float) -> Iterator[Delivery]:
        """Take a delivery; yield those that are to go because of it.

        Raises:
            Exception: The key of a debounce failed, or can't be hashed.
        """
        spec = delivery.binding.gathering
        assert spec is not None
        if isinstance(spec, Batch):
            yield from self._add_to_batch(delivery, spec, now)
        else:
            self._add_to_debounce(delivery, spec, now)
        while self.waiting > self._limit or self._size > self._max_size:
            yield self._close(next(iter(self._open)))

    def take_due(self, now: float) -> Iterator[Delivery]:
        """Yield what has waited long enough."""
        while self._due and self._due[0][0] <= now:
            due_at, number, key = heapq.heappop(self._due)
            one = self._open.get(key)
            if one is None or one.number != number:  # it was full before its time
                continue
            if one.due_at > due_at:  # there has been another one since
                self._remember(key, one)
            else:
                yield self._close(key)

    def take_all(self) -> Iterator[Delivery]:
        """Yield all that is held, as the deliverer ends."""
        while self._open:
            yield self._close(next(iter(self._open)))
        self._due.clear()

    def take_left(self) -> list[Delivery]:
        """Return what is held for bindings that have a successor."""
        left = [key for key, one in self._open.items() if one.binding.is_left]
        return [self._close(key) for key in left]

    def clear(self) -> None:
        """Forget all that is held."""
        self._open.clear()
        self._due.clear()
        self.waiting = self._size = 0

    def _add_to_batch(self, delivery: Delivery, spec: Batch, now: float) -> Iterator[Delivery]:
        key = delivery.binding
        one = self._open.get(key)
        if one is None:
            one = self._begin(key, delivery.binding, now + spec.seconds, now + spec.seconds)
        before = one.size
        one.add(delivery)
        self.waiting += 1
        self._size += one.size - before
        if one.count >= spec.size:
            yield self._close(key)

    def _add_to_debounce(self, delivery: Delivery, spec: Debounce, now: float) -> None:
        arrived = delivery.notification
        key = (delivery.binding, spec.key(arrived.payload) if spec.key else arrived.raw)
        one = self._open.pop(key, None)
        if one is None:
            one = self._begin(key, delivery.binding, now + spec.quiet, now + spec.patience)
            one.key_size = _weigh(key[1]) if spec.key else 0  # else it is the text, which counts
            self._size += one.key_size
            self.waiting += 1
        else:
            one.due_at = min(now + spec.quiet, one.ends_at)
            self._open[key] = one  # behind the others: they came before its latest
        before = one.size
        one.replace(delivery)
        self._size += one.size - before

    def _begin(self, key: Hashable, binding: Binding, due_at: float, ends_at: float) -> _Open:
        one = self._open[key] = _Open(binding, next(self._numbers), due_at, ends_at)
        self._remember(key, one)
        return one

    def _remember(self, key: Hashable, one: _Open) -> None:
        # Batches that closed early are still in the heap, with their keys. They mustn't pile up.
        if len(self._due) > 2 * len(self._open) + SPARE:
            self._due = [(each.due_at, each.number, k) for k, each in self._open.items()]
            heapq.heapify(self._due)
        else:
            heapq.heappush(self._due, (one.due_at, one.number, key))

    def _close(self, key: Hashable) -> Delivery:
        one = self._open.pop(key)
        self.waiting -= len(one.parts)
        self._size -= one.size + one.key_size
        if not self._open:
            self._due.clear()
        return one.close()


def shape(delivery: Delivery) -> Delivery:
    """Return a delivery in the shape that its binding expects, without waiting for more."""
    if not isinstance(delivery.binding.gathering, Batch):
        return delivery
    one = _Open(delivery.binding, 0, 0.0, 0.0)
    one.add(delivery)
    return one.close()


def _weigh(key: object) -> int:
    """Return about how many bytes the key of a debounce takes: a sender may choose them."""
    if isinstance(key, tuple | frozenset):
        return getsizeof(key) + sum(map(_weigh, key))
    return getsizeof(key)
