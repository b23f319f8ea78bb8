"""A deliverer: one dispatcher's thread and its bounded buffer."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from time import monotonic, sleep
from typing import Any

from pgnotifier._delivery.attempts import Attempts
from pgnotifier._delivery.batching import Gatherer
from pgnotifier._delivery.buffer import Buffer, GapMarker, Item, Trouble
from pgnotifier._delivery.decoding import Decoder, FindPayload
from pgnotifier._delivery.delays import Delays
from pgnotifier._delivery.ending import Ending
from pgnotifier._delivery.intake import EntryItem, Intake, decode, make_batch, size_of, take_next
from pgnotifier._delivery.succession import Succession
from pgnotifier._runtime.clock import Moment
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.sync import is_held_here
from pgnotifier.current import forget
from pgnotifier.dispatch import Batch, Delivery, Dispatcher
from pgnotifier.notification import Gap
from pgnotifier.settings import BUFFER_BYTES, Overflow

logger = logging.getLogger("pgnotifier.delivery")

GATHERED_SHARE = 8
"""Of the bytes that may wait, one in this many may be held back decoded."""
RETIRE_CHECK = 0.1
"""Seconds between two checks whether a dispatcher without subscriptions has finished."""
PENDING_CHECK = 0.01
"""Seconds between two checks, at the end, whether a dispatcher has finished."""

_calling: ContextVar["Deliverer | None"] = ContextVar("pgnotifier_calling", default=None)
"""The deliverer that has called the current code."""


def called_by_callback(owner: object) -> bool:
    """Return whether the calling code is a callback that this notifier has called."""
    deliverer = _calling.get()
    return deliverer is not None and deliverer.owner is owner


class Deliverer:
    """Takes what the reader puts into its buffer, decodes it and has it dispatched.

    The reader calls `stow`, `ring` and `retire`. The deliverer's thread calls everything that
    begins with an underscore. Any thread may call `stop`. The lock of `_ending.bell` guards the
    buffer's bounds and the flags; it is never held while decoding or dispatching.

    Attributes:
        dispatcher: What gets the batches.
        name: The name of its class.
        owner: The notifier that it works for.
        inbox: What `stow` will take; for the reader alone.
        buffer: What waits. Others only read its attributes.
        intake: The entries of the log that wait.
        succession: The successors of its bindings.
        delays: How long its batches take.
        thread: It ends when all is delivered after `drain` or `stop`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        decode: Callable[[str], Any],
        size: int,
        overflow: Overflow,
        on_room: Callable[[], None],
        find_payload: FindPayload = lambda *_: None,
        max_bytes: int = BUFFER_BYTES,
        owner: object = None,
    ) -> None:
        """Make a deliverer that isn't running yet.

        Args:
            dispatcher: What gets the batches.
            decode: Makes a payload of a notification's text.
            size: How many notifications may wait.
            overflow: What to do with one more.
            on_room: Called once a full buffer is half empty again, or if there is a gap to report.
            find_payload: Returns what a reference stands for. Default: it is gone.
            max_bytes: How many bytes of payloads may wait.
            owner: The notifier that it works for.
        """
        self.dispatcher = dispatcher
        self.name = type(dispatcher).__name__
        self.inbox: list[Item] = []
        self.owner = owner
        self._on_room = on_room
        self._ending = Ending()
        self.buffer = Buffer(self.name, size, max_bytes, overflow)
        self.intake = Intake()
        self._decoder = Decoder(decode if dispatcher.decodes else str, find_payload, self._miss)
        self._decoding = self._delivered = 0
        self.delays = Delays()
        self._gatherer = Gatherer(size, max_bytes // GATHERED_SHARE)
        given = (self._ending, self.buffer, self._gatherer, self._decoder.decode)
        self.succession = Succession(dispatcher, *given, self._deliver_for_another)
        self._attempts = Attempts(self.name, self._ending, self._renew, lambda: self.waiting)
        self.thread = self._make_thread()

    def _make_thread(self) -> threading.Thread:
        # Notifier keeps the process alive; a thread stuck in a callback mustn't.
        return threading.Thread(target=self._run, name=f"pgnotifier-{self.name}", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: It can't be. Another try may be made.
        """
        try:
            self.thread.start()
        except RuntimeError:
            self.thread = self._make_thread()  # since Python 3.13, the other one counts as done
            raise

    def is_current(self) -> bool:
        """Return whether it has called the calling code, or waits for it."""
        return _calling.get() is self or self.dispatcher.runs_here()

    @property
    def is_locked_here(self) -> bool:
        """Whether the calling code, a finalizer, say, has interrupted what holds the lock."""
        return is_held_here(self._ending.bell.lock)

    @property
    def delivered(self) -> int:
        """How many deliveries are done: never fewer than before."""
        self._delivered = max(self._delivered, self._attempts.delivered - self.dispatcher.pending)
        return self._delivered

    @property
    def waiting(self) -> int:
        """How many notifications and deliveries are waiting."""
        return (
            self.buffer.waiting
            + self.intake.waiting
            + self._decoding
            + self._gatherer.waiting
            + self._attempts.waiting
            + self.dispatcher.pending
        )

    @property
    def retrying(self) -> bool:
        """Whether the latest attempt to dispatch a batch has failed."""
        return self._attempts.trouble is not None

    @property
    def trouble(self) -> Trouble:
        """Since when it is retrying or full, and why."""
        return self._attempts.trouble or self.buffer.trouble

    def stow(self) -> None:
        """Put the inbox into the buffer; `ring` follows. Never blocks, whatever the policy."""
        items, self.inbox = self.inbox, []
        with self._ending.bell.lock:
            self.buffer.put(items)

    def accept(self, entries: Sequence[EntryItem]) -> bool:
        """Take entries of the log; return False if it is about to end, and takes nothing."""
        with self._ending.bell.lock:
            if self._ending.is_draining:
                return False
            self._attempts.has_entries = self.intake.is_open = True
            self.intake.put(entries)
            self._ending.bell.ring()
            return True

    def ring(self) -> None:
        """Wake the thread, if it waits."""
        self._ending.bell.ring()

    def hold(self, marker: GapMarker) -> None:
        """Hold back what is put from now on until the marker is released."""
        with self._ending.bell.lock:
            self.buffer.hold(marker)

    def release(self, marker: GapMarker, deliveries: Iterable[Delivery] = ()) -> bool:
        """Release a marker, and deliver something first.

        Args:
            marker: The marker.
            deliveries: What to deliver before what was held back.

        Returns:
            False if the marker has left the buffer already: nothing is delivered first then.
        """
        with self._ending.bell.lock:
            marker.deliveries = tuple(deliveries)
            marker.is_open = True
            self._ending.bell.ring()
            return not marker.is_taken

    def take_over(self, item: Item | GapMarker) -> bool:
        """Deliver what another deliverer hands on; return False if this one ends or has ended."""
        with self._ending.bell.lock:
            # Once it has retired, its dispatcher gets a new deliverer, which would overtake it.
            if self._ending.has_ended or self._ending.has_retired:
                return False
            self._attempts.has_entries = True  # it may be one
            if isinstance(item, GapMarker):
                self.buffer.hold(item)
            elif isinstance(item, EntryItem):
                self.intake.put([item])
            else:
                self.buffer.put([item])
            self._ending.bell.ring()
            return True

    def take_missed(self, *, at_once: bool = False) -> Gap | None:
        """Return the gap of what was missed since; at most one in a second, unless `at_once`."""
        with self._ending.bell.lock:
            return self.buffer.take_missed(Moment.now(), at_once=at_once)

    def drain(self) -> None:
        """Deliver what is left with short pauses only, then end; returns at once."""
        self._ending.drain()

    def retire(self) -> bool:
        """End, if there is nothing to do; return whether that is so.

        The reader calls it repeatedly. What may be slow is left to the deliverer's thread: asking
        the dispatcher what is pending, and closing it.
        """
        with self._ending.bell.lock:
            is_busy = bool(self.inbox) or self.buffer.has_missed or not self._is_empty()
            return self._ending.retire(is_busy=is_busy or self.intake.is_open)

    def stay(self) -> None:
        """Go on, though `retire` was called."""
        self._ending.is_retiring = False

    def forget_in_child(self) -> None:
        """End, in a child that a callback of this very deliverer has forked.

        What waits is the parent's. In any other child there is no thread to end.
        """
        self._ending.abandon_in_child()
        self._attempts.cancel()
        self.buffer.clear()
        self.intake.clear()
        self._gatherer.clear()
        self.dispatcher.forget_in_child()

    def stop(self, deadline: float) -> int:
        """Deliver what is left until a deadline, then give up.

        Args:
            deadline: By `time.monotonic()`.

        Returns:
            How many deliveries were given up: at least 1 if a callback is still busy. A caller
            that the deliverer itself waits for gets 0 at once, and the rest is delivered when it
            returns: a callback, or a finalizer that has interrupted the holder of its lock.
        """
        self.drain()
        if self.is_current() or self.is_locked_here:
            return 0
        if not self.thread.ident:
            return self.waiting
        self.thread.join(max(0.0, deadline - monotonic()))
        if not self.thread.is_alive():
            return 0
        with self._ending.bell.lock:
            self.intake.clear()
            left = self.waiting
            self._ending.abandon()
            self.buffer.clear()
            self._attempts.cancel()
        self.dispatcher.abandon()
        return max(left, 1)

    def close_dispatcher(self) -> None:
        """Close the dispatcher, and log it if that fails."""
        try:
            self.dispatcher.close()
        except Exception:
            extra = about("close_failed", dispatcher=self.name)
            logger.exception("%r could not be closed", self.dispatcher, extra=extra)

    def _run(self) -> None:
        forget()
        _calling.set(self)
        ending = self._ending
        try:
            while not ending.has_ended:
                while not self._deliver_some():
                    pass
                self._wait_for_pending()
                with ending.bell.lock:
                    more = self.succession.news or self.buffer
                    ending.has_ended = ending.is_abandoned or not more
        finally:
            ending.has_ended = True
        if ending.has_retired:
            self.close_dispatcher()

    def _deliver_some(self) -> bool:
        """Deliver what comes next; return whether everything is done after `stop`.

        A method of its own, so that no variable keeps a binding alive while it waits for more.
        """
        items = self._take()
        ending = not items and self._ending.is_draining
        deliveries: list[Delivery] = []
        has_news = bool(self.succession.news)
        if has_news:
            self._take_back(deliveries)
        decode(items, deliveries, self._decoder, self.succession)
        if has_news:
            self._forward_waiting()
        deliveries += self._gatherer.take_all() if ending else self._gatherer.take_due(monotonic())
        batch = make_batch(items, deliveries, self.succession)
        with self._ending.bell.lock:
            self._decoding = 0
            if not self._attempts.begin(batch):  # abandoned while decoding
                return True
        self._attempts.dispatch(batch, self.dispatcher)
        self.delays.note(items)
        return ending

    def _wait_for_pending(self) -> None:
        while any(one.pending for one in (self.dispatcher, *self.succession.helped)):
            if self._ending.is_abandoned or self.succession.news:
                return
            sleep(PENDING_CHECK)

    def _may_take(self) -> bool:
        return self.buffer.may_take(draining=self._ending.is_draining)

    def _is_empty(self) -> bool:
        return not (self.buffer or self.intake or self._gatherer.waiting or self.succession.news)

    def _take(self) -> Sequence[Item | GapMarker]:
        """Wait for items and return them; none if something gathered is due, or at the end."""
        ending, succession = self._ending, self.succession
        pends = ending.is_retiring and self.dispatcher.pending > 0
        with ending.bell.lock:
            while not (self._may_take() or self.intake or ending.is_draining or succession.news):
                due_at = self._gatherer.due_at
                left = None if due_at is None else due_at - monotonic()
                if left is not None and left <= 0:
                    break
                ending.is_idle = not pends
                ending.bell.wait(RETIRE_CHECK if pends else left)
                if pends or ending.is_retiring:
                    break
            ending.is_idle = ending.is_idle and self._is_empty()
            size, draining = self.dispatcher.batch_size, ending.is_draining
            items = take_next(self.intake, self.buffer, size, draining=draining)
            self._decoding = size_of(items)
        self._resume_reader()
        return items

    def _resume_reader(self) -> None:
        """Have the reader go on if it paused for this buffer, and there is room again."""
        with self._ending.bell.lock:
            has_room = self.buffer.has_room_again()
        if has_room:
            self._on_room()

    def _miss(self, item: Item, why: str) -> None:
        """Have the reader report a gap for what can't be delivered."""
        with self._ending.bell.lock:
            self.buffer.miss([item], why)
        self._on_room()

    def _take_back(self, deliveries: list[Delivery], left: Iterable[Delivery] = ()) -> None:
        """Hand what is under way for replaced bindings to their successors."""
        self._attempts.delivered -= self.succession.take_back(deliveries, left)

    def _forward_waiting(self) -> None:
        """Hand on what waits for other dispatchers."""
        self.succession.forward_waiting()
        self._resume_reader()

    def _renew(self, left: list[Delivery]) -> list[Delivery]:
        """Return what of a batch to try again, for the bindings that it is for by now.

        What was unsubscribed or muted meanwhile is left out.
        """
        waiting = [one for one in left if one.binding.live or one.binding.successor]
        renewed: list[Delivery] = []
        self._take_back(renewed, waiting)
        renewed += (one for one in waiting if not one.binding.is_left)
        self._forward_waiting()
        return renewed

    def _deliver_for_another(self, delivery: Delivery) -> None:
        """Have another dispatcher deliver, as its own deliverer has ended."""
        batch = Batch([delivery])
        if self._attempts.begin(batch):
            self._attempts.dispatch(batch, delivery.binding.dispatcher)
