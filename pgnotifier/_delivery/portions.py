"""Portions: entries of the log on their way to a relay, which forwards them as they are.

Any other dispatcher gets a `Delivery` of each entry, with a payload, a time and a receipt. A relay
needs the bytes alone, and making the objects would take longer than forwarding them. So its entries
stay together, as the rows that were read, and its batches make deliveries when they are asked for
them: for what the relay refuses, or tries again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import overload

import msgspec

from pgnotifier.dispatch import Batch, Binding, Delivery
from pgnotifier.notification import Entry, Receipt


class Row(msgspec.Struct, frozen=True, gc=False):
    """An entry as it is in the log, or one that has failed.

    Attributes:
        id: Its number.
        published_at: When it was published.
        key: Its key, if any, in the database's encoding.
        payload: Its payload, in the database's encoding.
        attempts: How many times it was tried.
        n: Its number among those that have failed.
    """

    id: int
    published_at: datetime
    key: bytes | None
    payload: bytes
    attempts: int = 0
    n: int = 0


@dataclass(frozen=True, slots=True)
class Portion:
    """Entries that were read together, for one binding.

    Attributes:
        binding: Who gets them.
        rows: The entries, in order. Their keys and payloads are UTF-8.
        received_at: When they were read.
        receipt: Notes when they are settled.
    """

    binding: Binding
    rows: Sequence[Row]
    received_at: datetime
    receipt: Receipt

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, count: int) -> "tuple[Portion, Portion]":
        """Return the portion of the first entries, and that of the others."""
        first, others = self.rows[:count], self.rows[count:]
        return replace(self, rows=first), replace(self, rows=others)

    def deliver(self, row: Row) -> Delivery:
        """Return the delivery of one of its entries."""
        text = row.payload.decode("utf-8", "surrogateescape")
        entry = Entry(
            self.binding.subscription.channel,
            text,
            text,
            0,
            self.received_at,
            id=row.id,
            key=None if row.key is None else row.key.decode("utf-8", "surrogateescape"),
            published_at=row.published_at,
            attempt=row.attempts + 1,
            receipt=self.receipt,
        )
        return Delivery(self.binding, entry)


class PortionBatch(Batch):
    """The batch of a portion: as any other, but deliveries are made when they are asked for."""

    __slots__ = ("_portion", "_whole")

    def __init__(self, portion: Portion) -> None:
        """Make a batch without acknowledged deliveries.

        Args:
            portion: What it consists of.
        """
        super().__init__()
        self._portion = portion
        self._whole = self._deliveries = self._left = _Deliveries(portion)

    @property
    def binding(self) -> Binding:
        """Who gets all of it."""
        return self._portion.binding

    def rows(self, most: int) -> Sequence[Row]:
        """Return what isn't acknowledged, in order; nothing if the batch is cancelled.

        After `leave` it returns nothing either: `rest` returns what was left.

        Args:
            most: How many entries to return at most.
        """
        if self._cancelled or self._left is not self._whole:
            return ()
        return self._portion.rows[self._done : self._done + most]

    def settle(self) -> None:
        """Note that all of it is done, unless the subscription was muted or removed meanwhile."""
        binding, receipt = self._portion.binding, self._portion.receipt
        if binding.live and receipt.covers(binding.mutes):
            receipt.settle_all([row.id for row in self._portion.rows])


class _Deliveries(Sequence[Delivery]):
    """The deliveries of a portion, which are all made when the first of them is asked for."""

    def __init__(self, portion: Portion) -> None:
        self._portion = portion
        self._made: tuple[Delivery, ...] | None = None

    def __len__(self) -> int:
        return len(self._portion)

    @overload
    def __getitem__(self, index: int) -> Delivery: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Delivery, ...]: ...
    def __getitem__(self, index: int | slice) -> Delivery | tuple[Delivery, ...]:
        if self._made is None:
            self._made = tuple(map(self._portion.deliver, self._portion.rows))
        return self._made[index]

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self[:])
