"""The progress of one durable subscription: what it reads next, and what is settled of that."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from pgnotifier._delivery.buffer import GapMarker
from pgnotifier._delivery.intake import EntryItem
from pgnotifier._delivery.portions import Row
from pgnotifier._durable.dropping import Missing, ReportDropped
from pgnotifier._durable.flight import Flight, retry_pause
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.pace import Pace
from pgnotifier._durable.reading import Reading, Sizes
from pgnotifier._durable.reports import report_dead, report_held
from pgnotifier._durable.retries import Retries
from pgnotifier._durable.rows import Failed, Place, Window
from pgnotifier._durable.tally import Tally
from pgnotifier._durable.turn import Turn
from pgnotifier.dispatch import Binding
from pgnotifier.durability import Durability


class Progress:
    """Where one subscription is, and what is under way. The source's thread owns it.

    It reads a batch, has it delivered, reads ahead meanwhile, and moves the position once the batch
    is settled. Failed entries are retried beside the new ones, or hold up the subscription.

    Attributes:
        wanted: The binding to deliver to from the next batch on; None once it was removed.
        binding: The binding that is delivered to now.
        sub: The subscription's number in the log; None if it isn't known, or was forgotten.
        tally: What is delivered, and what is known of the rest.
        turn: Until when it isn't read.
        reading: Where it is in the log, and what was read.
        flight: The entries that are being delivered, if any.
        latest: How many entries the latest flight has or had.
        read_at: When that began, by `monotonic()`.
    """

    def __init__(
        self,
        binding: Binding,
        hand_over: Callable[[Sequence[EntryItem] | GapMarker], object],
        on_settled: Callable[[], object],
        report_dropped: ReportDropped,
        sizes: Sizes | None = None,
    ) -> None:
        """Begin without a number and a position.

        Args:
            binding: The subscription.
            hand_over: Gives entries to the deliverer.
            on_settled: Called on any thread, once a batch is settled or lost.
            report_dropped: Logs and reports what it has missed.
            sizes: How many entries to read at a time. Default: as its dispatcher needs it.
        """
        self.wanted: Binding | None = binding
        self.binding = binding
        self.sub: int | None = None
        self.tally = Tally()
        self.latest, self.read_at = 0, -math.inf
        self.turn = Turn()
        self._hand_over = hand_over
        self._on_settled = on_settled
        self._missing = Missing(report_dropped, on_settled)
        self._is_locked = False
        self.reading = Reading(sizes or Sizes.of(binding.dispatcher))
        self.flight: Flight | None = None
        self._retries = Retries(hand_over, on_settled)
        self._pace = Pace()
        self._saved_to = 0  # the highest number in the log when the position was saved

    @property
    def durability(self) -> Durability:
        """The options of the subscription."""
        return self.binding.subscription.durability or Durability()

    @property
    def is_busy(self) -> bool:
        """Whether something is under way."""
        return self.flight is not None or self._missing.is_busy or self._retries.is_busy

    @property
    def awaits_entries(self) -> bool:
        """Whether what is published now would be read at once, as far as is known."""
        return (
            self.flight is None
            and not self._missing.is_busy
            and not self.turn.is_elsewhere
            and self.turn.has_come
            and self._may_go_on
        )

    @property
    def is_caught_up(self) -> bool:
        """Whether a visit would do nothing unless `find_news` finds something for it."""
        return (
            self.awaits_entries
            and not self.is_busy
            and self.tally.behind_since is None
            and self.reading.bookmark.ahead is not None
            and monotonic() < self._pace.idle_at
        )

    @property
    def is_gone(self) -> bool:
        """Whether it was removed, and nothing is under way any more."""
        return self.wanted is None and not (self.is_busy or self._is_locked)

    @property
    def due_at(self) -> float:
        """When to visit it next, by `monotonic()`, whether or not the bell rings."""
        times = [self._missing.due_at]
        if self.flight is None:
            times.append(self.turn.comes_at)
        elif self.flight.has_ended:
            times.append(self._pace.whole_at)
        elif not self.flight.is_void:  # nothing more of it is saved
            times.append(self._pace.part_at)
        if self._may_go_on:
            times.append(max(self._retries.due_at, self.turn.begins_at(is_held=self._is_locked)))
        return min(times)

    @property
    def is_resting(self) -> bool:
        """Whether it isn't read here now: another replica advances it, or it pauses."""
        return self.turn.is_elsewhere or not self.turn.has_come

    def become(self, sub: int) -> None:
        """Take a number in the log. If it has changed, a new position was made."""
        if sub != self.sub:
            self.begin_again()
            self.sub = sub

    def begin_again(self) -> None:
        """Forget what is known of the log. What is under way is read again afterwards."""
        self.sub, self._is_locked = None, False
        self.reading.begin_again()
        self._missing.forget()
        if self.flight is not None:
            self.flight = replace(self.flight, is_void=True)
        self._retries.void()

    def disconnect(self) -> None:
        """Note that the session has ended, and its locks with it. What is under way goes on."""
        self._is_locked = False
        self.reading.drop()

    def try_again(self) -> None:
        """Have the next visit check whether another replica still has it."""
        self.turn.look_again()

    def pass_over(self, now: str, newest: int) -> None:
        """Note a snapshot up to which it has nothing new, and the log's highest number."""
        self.reading.bookmark.ahead = now
        self._retries.note_none()
        self._pace.note_idle(is_quiet=newest <= self._saved_to)

    def leave_alone(self) -> None:
        """Read nothing for a moment, so that another replica can have it."""
        self.turn.leave()

    def visit(self, session: LogSession, *, may_read: bool = True) -> bool:
        """Save what is settled, and read on; return whether to visit it again at once.

        Args:
            session: The session.
            may_read: Whether it is its turn, if nothing of it is under way.

        Raises:
            psycopg.Error: The session has ended, or refuses something.
        """
        self._settle(session, goes_on=may_read)
        self._retries.settle(session, self.binding)
        self._missing.settle(session, self._hand_over)
        if not self.is_busy and self.wanted is not None:
            self.binding = self.wanted
        if not self._may_go_on or self.sub is None:
            self._missing.give_up(self.reading.begin_again)
            self._let_go(session)
            return False
        if not (may_read or self.is_busy):
            self.leave_alone()
        more = False
        if self.turn.has_come and self._lock(session):
            more = self.flight is None and not self._missing.is_busy and self._read(session)
            if self._is_locked and monotonic() >= self._retries.due_at:
                more = self._retries.read(session, self.sub, self.binding) or more
            if self.flight is not None and not self.flight.is_void and self._may_read_ahead:
                self.reading.read_ahead(session, self.sub, self.flight)
        self._let_go(session)
        return more

    def save(self, session: LogSession) -> None:
        """Save what is settled before the session is given up, and others may go on."""
        self._pace.whole_at = -math.inf
        self._settle(session)

    def end(self, session: LogSession) -> None:
        """Save what is settled, and give up the rest of what is under way."""
        self._settle(session, at_once=True)
        self._retries.settle(session, self.binding, at_once=True)
        self._retries.forget()
        self.flight = None
        self._missing.forget()
        self._let_go(session)

    # --- what comes next ---

    def _lock(self, session: LogSession) -> bool:
        """Hold it, and fetch what comes next; return False if another replica has it."""
        if self.sub is None or not (self._is_locked or self.turn.may_lock):
            return False
        if self.reading.has_next:
            return True
        if self.flight is None and not self._missing.is_busy:
            keep = monotonic() >= min(self._retries.due_at, self._pace.idle_at)
            fetched = self.reading.advance(
                session,
                self.sub,
                is_single=self._holds,
                keep=keep or self.is_busy,
                is_held=self._is_locked,
            )
            self.turn.note(is_elsewhere=fetched is None)
            self._is_locked = fetched is not None and fetched.is_held
        elif not self._is_locked:  # it was held by an earlier session
            self._is_locked = session.lock(self.sub)
            self.turn.note(is_elsewhere=not self._is_locked)
        return not self.turn.is_elsewhere

    @property
    def _may_go_on(self) -> bool:
        """Whether more may be delivered to the binding, which was neither replaced nor muted."""
        return self.wanted is self.binding and self.binding.live

    @property
    def _holds(self) -> bool:
        """Whether an entry that fails holds up those that follow."""
        return self.durability.on_failure == "stop"

    def _let_go(self, session: LogSession) -> None:
        """Let other replicas go on, unless something is under way."""
        if self.flight is None:
            self.reading.drop()
        if self._is_locked and not self.is_busy and self.sub is not None:
            self._is_locked = False
            session.unlock(self.sub)

    def _read(self, session: LogSession) -> bool:
        """Read the next entries and hand them over; return whether to look again at once."""
        sub = self.sub
        assert sub is not None
        reading, bookmark = self.reading, self.reading.bookmark
        if reading.has_entries:
            self._launch(session)
            return True
        fetched, reading.fetched = reading.fetched, None
        if fetched is None:
            return False
        window = fetched.window
        if window.state == "foreign":
            self.turn.pause()
            session.reanchor()
            return True
        if window.state == "gone":
            session.unlock(sub)
            self.sub, self._is_locked = None, False
        if window.state != "taken":
            return False
        if window.n != bookmark.known:
            is_new = bookmark.known is None
            bookmark.move(window.n)
            # Whoever has moved it may have dropped something, which is reported first.
            may_miss = is_new or self.durability.max_lag is not None
            if may_miss and self._missing.take(session, sub, self.binding):
                return False
        if not fetched.rows:
            self._move_on(session, window)
            return not window.is_now
        reading.keep(fetched)
        self._launch(session)
        return True

    def _launch(self, session: LogSession) -> None:
        """Hand over the first of the entries that were read."""
        self.flight = self.reading.launch(
            self.binding,
            self._hand_over,
            self._on_settled,
            session.encoding,
            self.tally.attempts if self._holds else None,
        )
        rows = self.flight.rows
        self.latest, self.read_at = len(rows), monotonic()
        self.tally.behind_since = rows[0].published_at
        self._pace.begin(self.flight.pause)

    @property
    def _may_read_ahead(self) -> bool:
        """Whether entries may be read while others are under way."""
        return (
            self._is_locked
            and self.reading.bookmark.known is not None
            and not self._missing.is_busy
            and not self._holds
            and self._may_go_on
            and self.turn.has_come
        )

    def _move_on(self, session: LogSession, window: Window) -> None:
        """Go on to the next window. This one is empty, so the move is saved only now and then."""
        self.reading.bookmark.ahead = window.target
        if window.is_now:
            self.tally.behind_since = None
        self._pace.note_idle(is_quiet=window.newest <= window.id_hi)
        self._saved_to = window.id_hi
        is_due = window.last_id or monotonic() >= self._pace.idle_at
        if is_due and self._is_locked and self._save(session, Place(window.target)):
            self._saved_to = window.newest

    # --- what is under way ---

    def _settle(self, session: LogSession, *, at_once: bool = False, goes_on: bool = False) -> None:
        """Move the position past what is settled.

        Args:
            session: The session.
            at_once: Whether to do so even if not all is settled.
            goes_on: Whether to hand over what comes next as well.
        """
        flight = self.flight
        if flight is None:
            return
        if flight.is_void:
            self.flight = None if flight.has_ended or at_once else flight
            return
        has_ended = flight.has_ended
        if not (has_ended or at_once or monotonic() >= self._pace.part_at):
            return
        has_failed = bool(flight.ledger.failures)
        if has_failed and self._holds:
            self._hold(flight)
            return
        if has_ended and not (at_once or has_failed) and monotonic() < self._pace.whole_at:
            return
        head = flight.head
        is_whole = len(head) == len(flight.rows)
        place = flight.place_after(head)
        self._pace.note_saved()
        left: Flight | None = None if has_ended else flight.after(head)
        if place is not None:
            failed = list(flight.failed(head, self.durability))
            looks = goes_on and is_whole and not has_failed and self._may_read_ahead
            if not self._save(session, place, head, failed, waits=at_once, looks=looks):
                left = left and replace(left, is_void=True)  # others wait until it has ended
        # Only now: if the session has just ended, it is saved in the next one.
        self.flight = left
        if head:
            self.turn.go_on()
        if has_ended and not is_whole:  # the rest was dropped, and is read again
            self.reading.drop()
            self.turn.pause()

    def _save(
        self,
        session: LogSession,
        place: Place,
        head: Sequence[Row] = (),
        failed: Sequence[Failed] = (),
        *,
        waits: bool = False,
        looks: bool = False,
    ) -> bool:
        """Move the position past some entries; return False if somebody else has moved it."""
        assert self.sub is not None
        waits = waits or (self._holds and len(head) > 0)  # its batches have one entry
        self._pace.note_saved()
        channel = self.binding.subscription.channel
        save = self.reading.save_and_look if looks else self.reading.save
        if not save(session, self.sub, channel, place, len(head), failed, waits=waits):
            return False
        if head:
            self.tally.note_saved(head, by_key=self.binding.dispatcher.is_relay)
        for one in failed:
            self._retries.look_in(one[1].retry_in)
            report_dead(self.binding.subscription, *one)
        return True

    def _hold(self, flight: Flight) -> None:
        """Stay where an entry has failed, and pause."""
        self.flight = None
        self.reading.drop()
        is_new = self.tally.note_held()
        self.turn.hold_up(retry_pause(self.tally.attempts))
        if is_new:
            report_held(self.binding.subscription, flight.rows[0])
