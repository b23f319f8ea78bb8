"""The intake: entries of the log that wait for a deliverer, beside its buffer."""

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime

from pgnotifier._delivery.buffer import BATCH_BYTES, Buffer, GapMarker, Item
from pgnotifier._delivery.decoding import Decoder, report
from pgnotifier._delivery.succession import Succession
from pgnotifier.dispatch import Batch, Binding, Delivery
from pgnotifier.notification import Entry, Receipt


class EntryItem(Item, frozen=True, gc=False):
    """An entry of the log that waits. Its data are UTF-8, and its pid is 0.

    Attributes:
        id: The number of the entry.
        key: The key that it was published with, if any.
        published_at: When it was published.
        attempt: How often it has been tried, the coming time included.
        receipt: Gets to know when it is settled.
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


class Intake:
    """Entries in their order. Its deliverer guards it.

    It needs no bounds and no overflow policy: whoever fills it reads no more until these are
    settled. What it drops isn't lost, as the log still has it.

    Attributes:
        is_open: Whether more may come, so that the deliverer has to stay.
    """

    def __init__(self) -> None:
        """Make an empty one."""
        self.is_open = False
        self._content: deque[EntryItem] = deque()
        self._was_last = False

    def __bool__(self) -> bool:
        """Return whether it holds anything."""
        return bool(self._content)

    @property
    def waiting(self) -> int:
        """How many entries wait."""
        return len(self._content)

    def put(self, items: Iterable[EntryItem]) -> None:
        """Add entries."""
        self._content.extend(items)

    def take_turn(self, *, others: bool) -> bool:
        """Return whether to take entries next: in turn, if others wait as well."""
        self._was_last = bool(self._content) and not (others and self._was_last)
        return self._was_last

    def take(self, batch_size: int) -> Sequence[EntryItem]:
        """Return enough entries for a batch.

        Args:
            batch_size: How many there may be.
        """
        taken: list[EntryItem] = []
        size = BATCH_BYTES
        while self._content and len(taken) < batch_size and size > 0:
            taken.append(self._content.popleft())
            size -= len(taken[-1].data)
        return taken

    def clear(self) -> None:
        """Forget all that waits."""
        self._content.clear()


def take_next(
    intake: Intake, buffer: Buffer, batch_size: int, *, draining: bool
) -> Sequence[Item | GapMarker]:
    """Return what is delivered next, if there is something: entries and others in turn.

    Args:
        intake: The entries that wait.
        buffer: What else waits.
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


def decode_entries(
    items: Iterable[EntryItem],
    deliveries: list[Delivery],
    decoder: Decoder,
    succession: Succession,
) -> None:
    """Add the deliveries of some entries; hand on those that are for other dispatchers.

    Args:
        items: What was taken out of the intake.
        deliveries: What to add to.
        decoder: Makes the payloads.
        succession: Has the bindings that an entry is for by now.
    """
    read = decoder.read
    for item in items:
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


def settle_acknowledged(batch: Batch, left: Iterable[Delivery]) -> None:
    """Settle the durable deliveries of a batch that its dispatcher has acknowledged.

    Args:
        batch: What was dispatched.
        left: What is to be tried again. It may contain replacements for deliveries of the batch.
    """
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
