"""The progress of one durable subscription: what it reads next, and what is settled of that."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from pgnotifier._delivery.buffer import GapMarker
from pgnotifier._delivery.intake import EntryItem
from pgnotifier._durable.bookmark import BATCH, Bookmark
from pgnotifier._durable.dropping import RETRY_PAUSE, Dropping, ReportDropped
from pgnotifier._durable.flight import Flight, launch, retry_pause
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.reports import report_dead, report_held
from pgnotifier._durable.retries import Retries
from pgnotifier._durable.rows import Failed, Fetched, Figures, Place, Window
from pgnotifier._runtime.backoff import Backoff
from pgnotifier.dispatch import Binding
from pgnotifier.durability import Durability

SAVE_PAUSE = 1.0
"""Seconds after which the part of a batch that is settled is saved."""
IDLE_SAVE_PAUSE = 10.0
"""Seconds between two saved positions while there is nothing to deliver."""
QUIET_SAVE_PAUSE = 300.0
"""The same while nothing at all is published: the log may be full."""
LOCK_PAUSE = 0.2
"""Seconds between two attempts to get a subscription that another replica advances."""
TURN_PAUSE = 0.03
"""Seconds for which it is left to other replicas, or waits for its turn beside others."""


class Progress:
    """Where one subscription is, and what is under way. The source's thread owns it.

    It reads a batch, has it delivered, and moves the position once that is settled. What fails is
    put aside, and retried beside the flow; or else it holds up the subscription.

    Attributes:
        wanted: The binding to deliver to from the next batch on; None once it was removed.
        binding: The binding that is delivered to now.
        sub: The subscription's number in the log; None if it isn't known, or was forgotten.
        behind_since: When the oldest entry was published that isn't delivered; None if there is
            none.
        last_id: The latest entry that was delivered by this process.
        held_since: Since when an entry that fails has held it up.
        figures: What the database says, now and then.
        delivered: How many entries are settled since the start.
        rate: How many entries a second were settled lately; None if that isn't known yet.
        attempts: How often the entry was tried that holds it up.
        latest: How many entries it has read last.
        read_at: When that was, by `monotonic()`.
    """

    def __init__(
        self,
        binding: Binding,
        hand_over: Callable[[Sequence[EntryItem] | GapMarker], object],
        on_settled: Callable[[], object],
        report_dropped: ReportDropped,
    ) -> None:
        """Begin without a number and a position.

        Args:
            binding: The subscription.
            hand_over: Gives entries to the deliverer.
            on_settled: Called on any thread, once a batch is settled or lost.
            report_dropped: Logs and reports what it has missed.
        """
        self.wanted: Binding | None = binding
        self.binding = binding
        self.sub: int | None = None
        self.behind_since: datetime | None = None
        self.last_id: int | None = None
        self.held_since: datetime | None = None
        self.figures: Figures | None = None
        self.delivered = 0
        self.rate: float | None = None
        self.attempts = 0
        self.latest = 0
        self.read_at = -math.inf
        self._is_elsewhere = False  # whether another replica advances it
        self._hand_over = hand_over
        self._on_settled = on_settled
        self._report_dropped = report_dropped
        self._dropping: Dropping | None = None
        self._is_locked = False
        self._lock_at = self._turn_at = -math.inf
        self._fetched: Fetched | None = None  # what was read when it was locked
        self._flight: Flight | None = None
        self._retries = Retries(hand_over, on_settled)
        self._batch = max(BATCH, binding.dispatcher.batch_size)
        self._bookmark = Bookmark(self._batch)
        self._saved_at = -math.inf
        self._save_pause = IDLE_SAVE_PAUSE
        self._paused_until = -math.inf
        self._backoff = Backoff()

    @property
    def durability(self) -> Durability:
        """The options of the subscription."""
        return self.binding.subscription.durability or Durability()

    @property
    def is_busy(self) -> bool:
        """Whether something is under way."""
        is_reading = self._flight is not None or self._dropping is not None
        return is_reading or self._retries.is_busy

    @property
    def awaits_entries(self) -> bool:
        """Whether what is published now would be read at once, as far as is known."""
        return (
            self._flight is None
            and self._dropping is None
            and not self._is_elsewhere
            and monotonic() >= max(self._turn_at, self._paused_until)
            and self.wanted is self.binding
            and self.binding.live
        )

    @property
    def is_gone(self) -> bool:
        """Whether it was removed, and nothing is under way any more."""
        return self.wanted is None and not (self.is_busy or self._is_locked)

    @property
    def due_at(self) -> float:
        """When to visit it next, by `monotonic()`, whether or not the bell rings."""
        times = [self._saved_at + SAVE_PAUSE if self._flight is not None else math.inf]
        if self.binding.live:
            times.append(self._retries.due_at)
        if self._flight is None:
            now = monotonic()
            times += [at for at in (self._paused_until, self._turn_at) if at > now]
        if self._dropping is not None:
            times.append(monotonic() + RETRY_PAUSE)
        return min(times)

    @property
    def flight(self) -> Flight | None:
        """The entries that are being delivered, if any. Any thread may ask."""
        return self._flight

    @property
    def is_resting(self) -> bool:
        """Whether it isn't read here now: another replica advances it, or it pauses."""
        return self._is_elsewhere or max(self._paused_until, self._turn_at) > monotonic()

    def become(self, sub: int) -> None:
        """Have a number in the log. If it is another one, a new position was made."""
        if sub != self.sub:
            self.begin_again()
            self.sub = sub

    def begin_again(self) -> None:
        """Trust nothing that is known of the log. What is under way is read again afterwards."""
        self.sub, self._is_locked = None, False
        self._bookmark, self._dropping = Bookmark(self._batch), None
        if self._flight is not None:
            self._flight = replace(self._flight, is_void=True)
        self._retries.void()

    def disconnect(self) -> None:
        """Note that the session has ended, and its locks with it. What is under way stays so."""
        self._is_locked = False

    def try_again(self) -> None:
        """Have it looked at once whether another replica still has it."""
        self._lock_at = -math.inf

    def leave_alone(self) -> None:
        """Read nothing for a moment, so that another replica can have it."""
        self._turn_at = monotonic() + TURN_PAUSE

    def visit(self, session: LogSession, *, may_read: bool = True) -> bool:
        """Save what is settled, and read on; return whether to visit it again at once.

        Args:
            session: The session.
            may_read: Whether it is its turn, if nothing of it is under way.

        Raises:
            psycopg.Error: The session has ended, or refuses something.
        """
        self._settle(session)
        self._retries.settle(session, self.binding)
        self._settle_dropping(session)
        if not self.is_busy and self.wanted is not None:
            self.binding = self.wanted
        if self.wanted is not self.binding or not self.binding.live or self.sub is None:
            self._let_go(session)
            return False
        if not (may_read or self.is_busy):
            self.leave_alone()
        more = False
        if monotonic() >= max(self._paused_until, self._turn_at) and self._lock(session):
            more = self._flight is None and self._dropping is None and self._read(session)
            if self._is_locked and monotonic() >= self._retries.due_at:
                more = self._retries.read(session, self.sub, self.binding) or more
        self._let_go(session)
        return more

    def end(self, session: LogSession) -> None:
        """Save what is settled, and have nothing under way any more."""
        self._settle(session, at_once=True)
        self._retries.settle(session, self.binding, at_once=True)
        self._retries.forget()
        self._flight = self._dropping = None
        self._let_go(session)

    # --- what comes next ---

    def _lock(self, session: LogSession) -> bool:
        """Hold it, and fetch what comes next; return False if another replica has it."""
        now = monotonic()
        if self.sub is None or (not self._is_locked and now < self._lock_at):
            return False
        if not self.is_busy:
            keep = now >= min(self._retries.due_at, self._saved_at + self._save_pause)
            self._fetched = session.advance(
                self.sub,
                *self._bookmark.ahead_of,
                self._limit,
                keep=keep,
                is_held=self._is_locked,
            )
            self._is_elsewhere = self._fetched is None
            self._is_locked = self._fetched is not None and self._fetched.is_held
        elif not self._is_locked:  # it was held by an earlier session
            self._is_locked = session.lock(self.sub)
            self._is_elsewhere = not self._is_locked
        if self._is_elsewhere:
            self._lock_at = now + LOCK_PAUSE
        return not self._is_elsewhere

    @property
    def _holds(self) -> bool:
        """Whether an entry that fails holds up those that follow."""
        return self.durability.on_failure == "stop"

    @property
    def _limit(self) -> int:
        return 1 if self._holds else self._bookmark.limit

    def _let_go(self, session: LogSession) -> None:
        """Let other replicas go on, unless something is under way."""
        if self._is_locked and not self.is_busy and self.sub is not None:
            self._is_locked = False
            session.unlock(self.sub)

    def _read(self, session: LogSession) -> bool:
        """Read the next entries and hand them over; return whether to look again at once."""
        assert self.sub is not None
        fetched, self._fetched = self._fetched, None
        if fetched is None:
            window = session.take(self.sub, *self._bookmark.ahead_of)
        else:
            window = fetched.window
        if window.state == "foreign":
            self._paused_until = monotonic() + self._backoff.pause()
            session.reanchor()
            return True
        if window.state == "gone":
            session.unlock(self.sub)
            self.sub, self._is_locked = None, False
        if window.state != "taken":
            return False
        if window.n != self._bookmark.known:
            is_new = self._bookmark.known is None
            self._bookmark.move(window.n)
            # Whoever has moved it may have dropped something.
            if (is_new or self.durability.max_lag is not None) and self._take_missed(session):
                return False
        if fetched is None:
            channel = self.binding.subscription.channel
            rows, is_rest = session.read(channel, window, self._limit)
        else:
            rows, is_rest = fetched.rows, fetched.is_rest
        if not rows:
            self._move_on(session, window)
            return not window.is_now
        if len(rows) > self._limit:
            rows, is_rest = rows[: self._limit], False
        if self._holds:
            rows = [row._replace(attempts=self.attempts) for row in rows]
        self.latest = len(rows)
        self.behind_since = rows[0].published_at
        self.read_at = self._saved_at = monotonic()
        self._flight = launch(
            rows,
            self.binding,
            self._hand_over,
            self._on_settled,
            session.encoding,
            window,
            is_rest=is_rest,
        )
        return True

    def _move_on(self, session: LogSession, window: Window) -> None:
        """Go on to the next window. This one is empty, so it is saved now and then only."""
        self._bookmark.ahead = window.target
        if window.is_now:
            self.behind_since = None
        is_quiet = window.newest <= window.id_hi
        self._save_pause = QUIET_SAVE_PAUSE if is_quiet else IDLE_SAVE_PAUSE
        is_due = window.last_id or monotonic() >= self._saved_at + self._save_pause
        if is_due and self._is_locked:
            self._save(session, Place(window.target))

    def _take_missed(self, session: LogSession) -> bool:
        """Report what was dropped, if anything was, before anything else is delivered."""
        assert self.sub is not None
        missed = session.take_missed(self.sub)
        if not missed:
            return False
        self._dropping = Dropping(self.binding, missed)
        self._dropping.report(self._report_dropped, self._on_settled)
        return True

    # --- what is under way ---

    def _settle(self, session: LogSession, *, at_once: bool = False) -> None:
        """Move the position past what is settled."""
        flight = self._flight
        if flight is None:
            return
        if flight.is_void:
            self._flight = None if flight.has_ended or at_once else flight
            return
        has_ended = flight.has_ended
        if not (has_ended or at_once or monotonic() >= self._saved_at + SAVE_PAUSE):
            return
        if flight.ledger.failures and self._holds:
            self._hold(flight)
            return
        head = flight.head
        place = flight.place_after(head)
        self._saved_at = monotonic()
        left: Flight | None = None if has_ended else flight.after(head)
        if place is not None:
            failed = list(flight.failed(head, self.durability))
            if self._save(session, place, len(head), failed, waits=at_once):
                self.last_id = head[-1].id
                self.delivered += len(head)
                self.attempts, self.held_since = 0, None
            else:
                left = None
        # Only now: if the session has just ended, it is saved in the next one.
        self._flight = left
        if len(head) == len(flight.rows):
            self._backoff, self._paused_until = Backoff(), -math.inf
        elif has_ended:  # the rest was dropped, and is read again
            self._paused_until = monotonic() + self._backoff.pause()

    def _save(
        self,
        session: LogSession,
        place: Place,
        count: int = 0,
        failed: Sequence[Failed] = (),
        *,
        waits: bool = False,
    ) -> bool:
        """Move the position past so many entries; return False if it was moved elsewhere."""
        assert self.sub is not None
        waits = waits or (self._holds and count > 0)  # its batches have one entry
        self._saved_at = monotonic()
        channel = self.binding.subscription.channel
        if not self._bookmark.save(session, self.sub, channel, place, count, failed, waits=waits):
            return False
        for one in failed:
            self._retries.look_in(one[1].retry_in)
            report_dead(self.binding.subscription, *one)
        return True

    def _settle_dropping(self, session: LogSession) -> None:
        """Forget what was dropped, once everybody knows."""
        dropping = self._dropping
        if dropping is not None and dropping.advance(self._hand_over, self._on_settled):
            session.forget_missed(dropping.missed)
            self._dropping = None

    def _hold(self, flight: Flight) -> None:
        """Stay where an entry has failed, and pause."""
        self._flight = None
        self.attempts += 1
        self._paused_until = monotonic() + retry_pause(self.attempts)
        if self.held_since is None:
            self.held_since = datetime.now(UTC)
            report_held(self.binding.subscription, flight.rows[0])
