"""A deliverer: one dispatcher's thread and its bounded buffer."""

import logging
import threading
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from pgnotifier._delivery.batching import Gatherer
from pgnotifier._delivery.buffer import BUFFER_BYTES, Buffer, GapMarker, Item, Overflow, Trouble
from pgnotifier._delivery.succession import Succession
from pgnotifier._runtime.backoff import Backoff
from pgnotifier._runtime.clock import Moment
from pgnotifier._runtime.log_records import about, count
from pgnotifier._runtime.log_throttle import LogThrottle
from pgnotifier._runtime.sync import Bell, is_held_here
from pgnotifier.dispatch import Batch, Delivery, Dispatcher
from pgnotifier.errors import BatchError, in_one_line
from pgnotifier.notification import Arrival, Gap, Notification
from pgnotifier.payload import decode as usual_decode
from pgnotifier.payload import decode_bytes

if TYPE_CHECKING:
    from pgnotifier.dispatch import Binding

logger = logging.getLogger("pgnotifier.delivery")

GATHERED = 8
"""The part of the bytes that may wait which may be held back decoded: 1 in so many."""

_calling: ContextVar["Deliverer | None"] = ContextVar("pgnotifier_calling", default=None)
"""The deliverer that has called the code which asks."""

RETIRE_CHECK = 0.1
"""Seconds between two looks whether a dispatcher without subscriptions is done."""
PENDING_CHECK = 0.01
"""Seconds between two looks, at the end, whether a dispatcher is done."""

_IMMUTABLE = frozenset({str, int, float, bool, type(None), bytes, complex})
_UNDECODED: Any = object()


def _read_text(decode: Callable[[str], Any], data: bytes) -> Any:
    """Return what a user's decoder makes of a payload."""
    return decode(data.decode("utf-8", "surrogateescape"))


def called_by_callback(owner: object) -> bool:
    """Return whether the calling code is a callback that this notifier has called."""
    deliverer = _calling.get()
    return deliverer is not None and deliverer.owner is owner


class Deliverer:
    """Takes what the reader puts into its buffer, decodes it and has it dispatched.

    The reader calls `put`, the deliverer's thread everything that begins with an
    underscore, and `stop` may come from anywhere. `_bell.lock` guards the buffer's
    bounds and the flags; it is never held while decoding or dispatching.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        decode: Callable[[str], Any],
        size: int,
        overflow: Overflow,
        on_room: Callable[[], None],
        max_bytes: int = BUFFER_BYTES,
        owner: object = None,
    ) -> None:
        """Make a deliverer that isn't running yet.

        Args:
            dispatcher: What batches are handed to.
            decode: Makes a payload of a notification's text.
            size: How many notifications may wait.
            overflow: What to do with one more.
            on_room: Called once a full buffer is half empty again.
            max_bytes: How many bytes of payloads may wait.
            owner: The notifier that it works for.
        """
        self.dispatcher = dispatcher
        self.name = type(dispatcher).__name__
        self.inbox: list[Item] = []  # the reader's alone: what `put` will take
        self._delivered = 0
        self.retrying = False
        self._retried: Trouble | None = None
        # What is decoded as usual needs no text for that.
        self._read = decode_bytes if decode is usual_decode else partial(_read_text, decode)
        self._on_room = on_room
        self.owner = owner
        self._buffer = Buffer(self.name, size, max_bytes, overflow)
        self._decoding = 0
        self._batches: list[Batch] = []  # the one in hand, and what is delivered amid it
        self._gatherer = Gatherer(size, max_bytes // GATHERED)
        self._warn = LogThrottle(logger)
        self._bell = Bell()
        self.succession = Succession(dispatcher, self._bell, self._buffer, self._gatherer)
        self._stopping = False
        self._abandoned = False
        self._has_ended = False
        self._is_retiring = False
        self._is_idle = False  # its thread waits, and its dispatcher has nothing pending
        self._has_retired = False
        self._thread = self._make_thread()

    def _make_thread(self) -> threading.Thread:
        # Notifier keeps the process alive; a thread stuck in a callback mustn't.
        return threading.Thread(target=self._run, name=f"pgnotifier-{self.name}", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: It can't be. Another try may be made.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = self._make_thread()
            raise

    def is_current(self) -> bool:
        """Return whether it has called the calling code, or waits for it."""
        return _calling.get() is self or self.dispatcher.runs_here()

    @property
    def is_locked_here(self) -> bool:
        """Whether the calling code, a finalizer, say, has interrupted what holds the lock."""
        return is_held_here(self._bell.lock)

    @property
    def thread(self) -> threading.Thread:
        """The thread, which ends when all is delivered and `hurry` or `stop` was called."""
        return self._thread

    @property
    def delivered(self) -> int:
        """How many deliveries are done."""
        return max(0, self._delivered - self.dispatcher.pending)

    @property
    def waiting(self) -> int:
        """How many notifications and deliveries are waiting."""
        return (
            self._buffer.waiting
            + self._decoding
            + self._gatherer.waiting
            + sum(batch.waiting for batch in self._batches)
            + self.dispatcher.pending
        )

    @property
    def trouble(self) -> Trouble:
        """Since when it is retrying or full, and why."""
        retried = self._retried
        return self._buffer.trouble if retried is None else retried

    @property
    def full(self) -> bool:
        """Whether the reader is to pause until half of the buffer is delivered."""
        return self._buffer.full

    @property
    def overfull(self) -> bool:
        """Whether it holds so much more than it should that nobody is to add to it."""
        return self._buffer.overfull

    @property
    def dropped(self) -> int:
        """How many notifications the overflow policy has dropped."""
        return self._buffer.dropped

    def put(self) -> None:
        """Take over the inbox. Never blocks: under `block`, `full` asks the reader to pause."""
        self.stow()
        self.ring()

    def stow(self) -> None:
        """Do as `put`, but leave it to `ring` to wake the thread."""
        items, self.inbox = self.inbox, []
        with self._bell.lock:
            self._buffer.put(items)

    def ring(self) -> None:
        """Wake the thread, if it waits."""
        self._bell.ring()

    def hold(self, marker: GapMarker) -> None:
        """Deliver nothing that is put from now on until a marker is released."""
        with self._bell.lock:
            self._buffer.hold(marker)

    def release(self, marker: GapMarker, deliveries: Iterable[Delivery] = ()) -> bool:
        """Continue behind a marker, with some deliveries first; return False if it is too late."""
        with self._bell.lock:
            marker.deliveries = tuple(deliveries)
            marker.is_open = True
            self._bell.ring()
            return not marker.is_taken

    def take_over(self, item: Item | GapMarker) -> bool:
        """Deliver what another deliverer hands on; return False if this one has ended."""
        with self._bell.lock:
            if self._has_ended:
                return False
            if isinstance(item, GapMarker):
                self._buffer.hold(item)
            else:
                self._buffer.put([item])
            self._bell.ring()
            return True

    @property
    def has_missed(self) -> bool:
        """Whether something was dropped that `take_missed` is still to tell."""
        return self._buffer.has_missed

    def take_missed(self, *, at_once: bool = False) -> Gap | None:
        """Return the gap that dropping made since the last call, if any; one in a second.

        Args:
            at_once: Whether there will be no later call.
        """
        with self._bell.lock:
            return self._buffer.take_missed(Moment.now(), at_once=at_once)

    def hurry(self) -> None:
        """Deliver what is left with short pauses only, then end; returns at once."""
        with self._bell.lock:
            self._stopping = True
            self._bell.ring()

    def retire(self) -> bool:
        """End, if there is nothing to do; return whether that is so.

        Called by the reader, again and again. What may take its time is left to this one's thread:
        to ask the dispatcher for what is pending, and to close it.
        """
        with self._bell.lock:
            busy = self.inbox or self._buffer or self._buffer.has_missed or self._gatherer.waiting
            if self._is_retiring and self._is_idle and not busy and not self.succession.has_news:
                self._stopping = self._has_retired = True
            elif not self._is_retiring:
                self._is_retiring, self._is_idle = True, False
            self._bell.ring()
            return self._has_retired

    def stay(self) -> None:
        """Go on, though `retire` was called."""
        self._is_retiring = False

    def forget_in_child(self) -> None:
        """End, in a child that a callback of this very deliverer forked: the rest is the parent's.

        In any other child there is no thread to end.
        """
        self._bell = Bell()
        self.succession.forget_in_child(self._bell)
        self._stopping = self._abandoned = True
        self._buffer.clear()
        self._gatherer.clear()
        self._cancel()
        self.dispatcher.forget_in_child()

    def stop(self, deadline: float) -> int:
        """Deliver what is left, until a deadline, then give up.

        Args:
            deadline: By `time.monotonic()`.

        Returns:
            How many deliveries were given up: at least 1 if a callback is still busy. From within
            a callback of this very deliverer, or a finalizer that has interrupted what holds its
            lock, there is no waiting: 0, and the rest follows when that returns.
        """
        self.hurry()
        if self.is_current() or self.is_locked_here:
            return 0
        if not self._thread.ident:
            return self.waiting
        self._thread.join(max(0.0, deadline - monotonic()))
        if not self._thread.is_alive():
            return 0
        with self._bell.lock:
            self._abandoned = True
            left = self.waiting
            self._buffer.clear()
            self._cancel()
            self._bell.ring()
        self.dispatcher.abandon()
        return max(left, 1)

    def _cancel(self) -> None:
        """End the loop of a dispatcher that is in the middle of a batch."""
        for batch in self._batches:
            batch.cancel()

    def _run(self) -> None:
        _calling.set(self)
        try:
            while not self._has_ended:
                while not self._deliver_some():
                    pass
                self._wait_for_pending()
                with self._bell.lock:
                    more = self.succession.has_news or self._buffer
                    self._has_ended = self._abandoned or not more
        finally:
            self._has_ended = True
        if self._has_retired:
            self._close_dispatcher()

    def _close_dispatcher(self) -> None:
        try:
            self.dispatcher.close()
        except Exception:
            logger.exception(
                "%r could not be closed",
                self.dispatcher,
                extra=about("close_failed", dispatcher=self.name),
            )

    def _deliver_some(self) -> bool:
        """Deliver what comes next; return whether all is done after `stop`.

        A method of its own, so that no variable keeps a binding alive while it waits for more.
        """
        items = self._take()
        ending = not items and self._stopping
        deliveries: list[Delivery] = []
        has_news = self.succession.has_news
        if has_news:
            self._take_back(deliveries)
        self._decode_items(items, deliveries)
        if has_news:
            self._forward_waiting()
        deliveries += self._gatherer.take_all() if ending else self._gatherer.take_due(monotonic())
        batch = Batch(deliveries)
        with self._bell.lock:
            if self._abandoned:  # in the time that the decoder took
                return True
            self._batches.append(batch)
            self._decoding = 0
        self._dispatch(batch, self.dispatcher)
        return ending

    def _wait_for_pending(self) -> None:
        dispatchers = (self.dispatcher, *self.succession.helped)
        while any(one.pending for one in dispatchers):
            if self._abandoned or self.succession.has_news:
                return
            sleep(PENDING_CHECK)

    def _may_take(self) -> bool:
        return self._buffer.may_take(hurry=self._stopping)

    def _take(self) -> list[Item | GapMarker]:
        """Wait for items and return them; none if something gathered is due, or at the end."""
        pends = self._is_retiring and self.dispatcher.pending > 0
        with self._bell.lock:
            while not (self._may_take() or self._stopping or self.succession.has_news):
                due_at = self._gatherer.due_at
                left = None if due_at is None else due_at - monotonic()
                if left is not None and left <= 0:
                    break
                self._is_idle = not pends
                self._bell.wait(RETIRE_CHECK if pends else left)
                if pends or self._is_retiring:
                    break
            rests = not (self._buffer or self._gatherer.waiting or self.succession.has_news)
            self._is_idle = self._is_idle and rests
            items = self._buffer.take(self.dispatcher.batch_size) if self._may_take() else []
            self._decoding = len(items)
        self._see_to_room()
        return items

    def _see_to_room(self) -> None:
        """Have the reader go on once there is room again for what it reads."""
        with self._bell.lock:
            has_room = self._buffer.has_room_again()
        if has_room:
            self._on_room()

    def _decode_items(self, items: list[Item | GapMarker], deliveries: list[Delivery]) -> None:
        read = self._read
        for item in items:
            if isinstance(item, GapMarker):
                self._give(item.deliveries, deliveries)
                continue
            payload = _UNDECODED
            data: Any = item.data  # from which an arrival makes its text when asked for it
            for one in item.bindings:
                binding = one
                if one.heir is not None:
                    binding = self.succession.follow(one)
                    if not self.succession.serves(binding):
                        self._forward(binding, item)
                        continue
                # A payload is decoded anew for each callback unless it is immutable, so
                # that what one does to its dict the next one doesn't see.
                if type(payload) not in _IMMUTABLE:
                    try:
                        payload = read(data)
                    except BaseException as exc:  # noqa: BLE001 - a user's decoder
                        failed = Arrival(item.channel, None, data, item.pid, item.received_at)
                        Delivery(binding, failed).report(exc)
                        continue
                arrival = Arrival(item.channel, payload, data, item.pid, item.received_at)
                delivery = Delivery(binding, arrival)
                if binding.gathering is None:
                    deliveries.append(delivery)
                else:
                    self._gather(delivery, deliveries)

    def _gather(self, delivery: Delivery, deliveries: list[Delivery]) -> None:
        if not (delivery.binding.live or delivery.binding.heir):
            return
        try:
            deliveries.extend(self._gatherer.add(delivery, monotonic()))
        except BaseException as exc:  # noqa: BLE001 - a user's key
            delivery.report(exc)

    def _take_back(self, deliveries: list[Delivery], left: Iterable[Delivery] = ()) -> None:
        """Give what is on its way for bindings with an heir to that.

        Args:
            deliveries: What to add to.
            left: What was about to be dispatched, of these and of other bindings.
        """
        back = self.succession.take_back()
        self._delivered -= len(back)
        # Before anything is given: for want of room, that may close what is held back.
        gathered = self.succession.take_gathered()
        retried = [one for one in left if one.binding.is_left and id(one) not in back]
        self._give((*back.values(), *retried, *gathered), deliveries)

    def _forward_waiting(self) -> None:
        """Hand on what is for other dispatchers: it isn't to wait behind what this one does."""
        for binding, item in self.succession.take_waiting():
            self._forward(binding, item)
        self._see_to_room()

    def _give(self, given: Iterable[Delivery], deliveries: list[Delivery]) -> None:
        """Add deliveries, as if they had just arrived for whom they are for by now."""
        for one in given:
            for binding, arrived in self.succession.split(one):
                delivery = one if binding is one.binding else Delivery(binding, arrived)
                if not self.succession.serves(binding):
                    self._forward(binding, delivery)
                elif binding.gathering is None:
                    deliveries.append(delivery)
                else:
                    self._gather(delivery, deliveries)

    def _forward(self, binding: "Binding", item: Item | Delivery) -> None:
        """Hand on to another deliverer; should that have ended, dispatch in its place."""
        if self.succession.forward(binding, item):
            return
        arrived = (
            item.notification if isinstance(item, Delivery) else self._decode_for(binding, item)
        )
        if arrived is not None:
            delivery = self.succession.stand_in(binding, arrived)
            batch = Batch([delivery])
            with self._bell.lock:
                if self._abandoned:
                    return
                self._batches.append(batch)
            self._dispatch(batch, delivery.binding.dispatcher)

    def _decode_for(self, binding: "Binding", item: Item) -> Notification | None:
        data: Any = item.data
        try:
            payload = self._read(item.data)
        except BaseException as exc:  # noqa: BLE001 - a user's decoder
            failed = Arrival(item.channel, None, data, item.pid, item.received_at)
            Delivery(binding, failed).report(exc)
            return None
        return Arrival(item.channel, payload, data, item.pid, item.received_at)

    def _dispatch(self, batch: Batch, by: Dispatcher) -> None:
        """Have the last of the batches dispatched, with as many tries as it takes."""
        backoff = Backoff()
        delivered = 0
        while batch.remaining:
            before = batch.remaining
            failure = _try(batch, by)
            delivered += before - batch.remaining
            if not batch.remaining:  # or given up by `stop`
                break
            self._begin_retrying(failure)
            self._pause(backoff.pause())
            batch = self._renew(batch)
        if not self._abandoned:
            self._end_retrying()
            self._delivered += delivered
        self._batches.pop()

    def _end_retrying(self) -> None:
        if self.retrying:
            self.retrying = False
            self._retried = None
            extra = about("delivers_again", dispatcher=self.name)
            logger.info("%s delivers again", self.name, extra=extra)

    def _begin_retrying(self, failure: BaseException) -> None:
        why = in_one_line(f"{type(failure).__name__}: {failure}")
        since = datetime.now(UTC) if self._retried is None else self._retried.since
        self._retried = Trouble(since, why)
        if not self.retrying:
            self.retrying = True
            self._warn(
                "%s can't deliver (%s); waiting: %s; retrying",
                self.name,
                why,
                count(self.waiting, "notification"),
                extra=about(
                    "retrying",
                    dispatcher=self.name,
                    count=self.waiting,
                    error=type(failure).__name__,
                ),
            )

    def _renew(self, batch: Batch) -> Batch:
        """Return the batch of the next try: without what was unsubscribed or muted meanwhile.

        What was subscribed anew goes to whom it is for by now.
        """
        waiting = [one for one in batch.rest() if one.binding.live or one.binding.heir]
        batch.leave(())
        renewed: list[Delivery] = []
        self._take_back(renewed, waiting)
        renewed += (one for one in waiting if not one.binding.is_left)
        self._forward_waiting()
        with self._bell.lock:
            self._batches[-1] = Batch(() if self._abandoned else renewed)
            return self._batches[-1]

    def _pause(self, seconds: float) -> None:
        """Wait, but cut it short for `stop`, which has only so long to see all delivered."""
        with self._bell.lock:
            hurried = self._stopping
            deadline = monotonic() + (min(seconds, 0.2) if hurried else seconds)
            while self._stopping is hurried and (left := deadline - monotonic()) > 0:
                self._bell.wait(left)


def _try(batch: Batch, dispatcher: Dispatcher) -> BaseException:
    """Have a batch dispatched once; return why some of it is left, if that is so."""
    try:
        dispatcher.dispatch(batch)
    except BaseException as exc:  # noqa: BLE001 - whatever a queue's client raises
        return exc
    return BatchError(
        f"dispatch() returned with {batch.remaining} of {len(batch)} deliveries not acknowledged; "
        "see Batch for how to"
    )
