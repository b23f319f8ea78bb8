"""The intake: entries of the log that wait for a deliverer, beside its buffer."""

from collections import deque
from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from pgnotifier._delivery.buffer import BATCH_BYTES, Buffer, GapMarker, Item
from pgnotifier._delivery.decoding import Decoder, report
from pgnotifier._delivery.portions import Portion, PortionBatch
from pgnotifier._delivery.succession import Succession
from pgnotifier.dispatch import Batch, Binding, Delivery
from pgnotifier.notification import Entry, Receipt


class EntryItem(Item, frozen=True, gc=False):
    """A log entry that waits. Its data is UTF-8, and its pid is 0.

    Attributes:
        id: The number of the entry.
        key: The key that it was published with, if any.
        published_at: When it was published.
        attempt: How many times it has been tried, including the coming time.
        receipt: Notes when it is settled.
    """

    id: int = 0
    key: str | None = None
    published_at: datetime | None = None
    attempt: int = 1
    receipt: Receipt | None = None

    def arrival(self, payload: object) -> Entry:
        """Return the notification, with the payload that was made of the data."""
        return Entry(
            self.channel,
            payload,
            self.data.decode("utf-8", "surrogateescape"),
            self.pid,
            self.received_at,
            id=self.id,
            key=self.key,
            published_at=self.published_at,
            attempt=self.attempt,
            receipt=self.receipt,
        )


class PortionItem(EntryItem, frozen=True, gc=False):
    """Entries for a relay that wait together; their data is in the portion.

    Attributes:
        portion: The entries.
    """

    portion: Portion | None = None


class Intake:
    """Entries in their order. Its deliverer guards it.

    It needs no bounds and no overflow policy: the source that fills it reads no more until these
    are settled. What it drops isn't lost, as the log still has it.

    Attributes:
        is_open: Whether more may come, so that the deliverer has to stay.
        waiting: How many entries wait.
    """

    def __init__(self) -> None:
        """Make an empty one."""
        self.is_open = False
        self.waiting = 0
        self._content: deque[EntryItem] = deque()
        self._was_last = False

    def __bool__(self) -> bool:
        """Return whether it holds anything."""
        return bool(self._content)

    def put(self, items: Sequence[EntryItem]) -> None:
        """Add entries."""
        self._content.extend(items)
        self.waiting += size_of(items)

    def take_turn(self, *, others: bool) -> bool:
        """Return whether to take entries next. They take turns with others, if those wait too."""
        self._was_last = bool(self._content) and not (others and self._was_last)
        return self._was_last

    def take(self, batch_size: int) -> Sequence[EntryItem]:
        """Return enough entries for a batch: a portion, or entries that came one by one.

        Args:
            batch_size: How many there may be.
        """
        taken: list[EntryItem] = []
        size = BATCH_BYTES
        content = self._content
        while content and len(taken) < batch_size and size > 0:
            if isinstance(content[0], PortionItem):
                if not taken:
                    taken.append(self._take_portion(content.popleft(), batch_size))
                break
            taken.append(content.popleft())
            size -= len(taken[-1].data)
        self.waiting -= size_of(taken)
        return taken

    def _take_portion(self, item: EntryItem, batch_size: int) -> EntryItem:
        """Return a portion that is small enough, and leave the rest of it."""
        assert isinstance(item, PortionItem)
        assert item.portion is not None
        if len(item.portion) <= batch_size:
            return item
        first, others = item.portion.split(batch_size)
        self._content.appendleft(msgspec.structs.replace(item, portion=others))
        return msgspec.structs.replace(item, portion=first)

    def clear(self) -> None:
        """Forget all that waits."""
        self._content.clear()
        self.waiting = 0


def size_of(items: Sequence[object]) -> int:
    """Return how many notifications or entries some items stand for."""
    return len(items) + sum(
        len(one.portion) - 1
        for one in items[:1]
        if isinstance(one, PortionItem) and one.portion is not None
    )


def take_next(
    intake: Intake, buffer: Buffer, batch_size: int, *, draining: bool
) -> Sequence[Item | GapMarker]:
    """Return what to deliver next, if anything: entries and others take turns.

    Args:
        intake: The entries that wait.
        buffer: The notifications that wait.
        batch_size: How many deliveries they may make.
        draining: Whether this is the end. Entries are dropped then: the log still has them, and
            they could take long.
    """
    if draining:
        intake.clear()
    may_take = buffer.may_take(draining=draining)
    if intake.take_turn(others=may_take):
        return intake.take(batch_size)
    return buffer.take(batch_size) if may_take else []


def decode(
    items: Sequence[Item | GapMarker],
    deliveries: list[Delivery],
    decoder: Decoder,
    succession: Succession,
) -> None:
    """Add the deliveries of what was taken out of the intake or the buffer.

    What is for other dispatchers is handed on. A portion is left to `make_batch`.

    Args:
        items: What was taken.
        deliveries: What to add to.
        decoder: Makes the payloads.
        succession: Knows the bindings that an entry is for by now.
    """
    if not items or not isinstance(items[0], EntryItem):
        decoder.decode_items(items, deliveries, succession)
        return
    read = decoder.read
    for item in items:
        if not isinstance(item, EntryItem) or isinstance(item, PortionItem):
            break
        for one in item.bindings:
            binding = one
            if one.successor is not None:
                binding = succession.follow(one)
                if not succession.serves(binding):
                    succession.forward(binding, item)
                    continue
            try:
                payload = read(item.data)
            except BaseException as exc:  # noqa: BLE001 - a user's decoder
                report(binding, item, exc)
                continue
            delivery = Delivery(binding, item.arrival(payload))
            if binding.gathering is None:
                deliveries.append(delivery)
            else:
                succession.gather(delivery, deliveries)


def make_batch(
    items: Sequence[object], deliveries: list[Delivery], succession: Succession
) -> Batch:
    """Return the batch of some deliveries, and of the portion that was taken, if one was.

    Args:
        items: What was taken out of the intake, or out of the buffer.
        deliveries: The other deliveries.
        succession: Knows the bindings that the portion is for by now.
    """
    item = items[0] if items else None
    if not isinstance(item, PortionItem) or item.portion is None:
        return Batch(deliveries)
    binding = item.portion.binding
    if not deliveries and binding.successor is None and binding.gathering is None:
        return PortionBatch(item.portion)
    succession.give(map(item.portion.deliver, item.portion.rows), deliveries)
    return Batch(deliveries)


def settle_acknowledged(batch: Batch, left: Collection[Delivery]) -> None:
    """Settle the durable deliveries of a batch that its dispatcher has acknowledged.

    Args:
        batch: What was dispatched.
        left: What is to be tried again. It may contain replacements for deliveries of the batch.
    """
    if isinstance(batch, PortionBatch) and not left:
        batch.settle()
        return
    kept = {(id(entry.receipt), entry.id) for one in left for entry in one.entries()}
    if not kept:
        _settle_all(batch)
        return
    for delivery in batch:
        if not delivery.binding.live:
            continue
        for entry in delivery.entries():
            if (id(entry.receipt), entry.id) not in kept:
                Delivery(delivery.binding, entry).settle()


def _settle_all(batch: Batch) -> None:
    """Settle all deliveries: those that were read together in one call, which is much faster."""
    binding: Binding | None = None
    receipt: Receipt | None = None
    done: list[int] = []
    for delivery in batch:
        entry = delivery.notification
        if not isinstance(entry, Entry) or entry.parts:
            delivery.settle()
        elif entry.receipt is receipt and delivery.binding is binding:
            done.append(entry.id)
        else:
            _settle_some(binding, receipt, done)
            binding, receipt, done = delivery.binding, entry.receipt, [entry.id]
    _settle_some(binding, receipt, done)


def _settle_some(binding: Binding | None, receipt: Receipt | None, done: list[int]) -> None:
    """Do what `Delivery.settle` does, for entries with the same receipt and binding."""
    if binding is None or receipt is None:
        return
    if binding.live and receipt.covers(binding.mutes):
        receipt.settle_all(done)
