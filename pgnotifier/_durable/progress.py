"""The progress of one durable subscription: what it reads next, and what is settled of that."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from pgnotifier._delivery.buffer import GapMarker, Trouble
from pgnotifier._delivery.intake import EntryItem
from pgnotifier._durable.dropping import RETRY_PAUSE, Dropping, ReportDropped
from pgnotifier._durable.flight import Flight, launch, retry_pause
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.reports import report_dead, report_held
from pgnotifier._durable.retries import Retries
from pgnotifier._durable.rows import Failed, Fetched, Figures, Place, Window
from pgnotifier._runtime.backoff import Backoff
from pgnotifier.dispatch import Binding
from pgnotifier.durability import Durability
from pgnotifier.status import DurableStatus

BATCH = 1000
"""How many entries are read at a time: as many may come again after a crash. More for a dispatcher
with larger batches."""
SAVE_PAUSE = 1.0
"""Seconds after which the part of a batch that is settled is saved."""
IDLE_SAVE_PAUSE = 10.0
"""Seconds between two saved positions while there is nothing to deliver."""
QUIET_SAVE_PAUSE = 300.0
"""The same while nothing at all is published: the log may be full."""
LOCK_PAUSE = 0.2
"""Seconds between two attempts to get a subscription that another replica advances."""


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
        latest: How many entries it has read last.
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
        self.latest = 0
        self._is_elsewhere = False  # whether another replica advances it
        self._hand_over = hand_over
        self._on_settled = on_settled
        self._report_dropped = report_dropped
        self._dropping: Dropping | None = None
        self._is_locked = False
        self._lock_at = -math.inf
        self._fetched: Fetched | None = None  # what was read when it was locked
        self._flight: Flight | None = None
        self._retries = Retries(hand_over, on_settled)
        self._known: int | None = None  # the number of the position
        self._ahead: str | None = None  # there is nothing to deliver up to this snapshot
        self._saved_at = -math.inf
        self._save_pause = IDLE_SAVE_PAUSE
        self._paused_until = -math.inf
        self._attempts = 0  # of the entry that holds it up
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
            and self.wanted is self.binding
            and self.binding.live
            and monotonic() >= self._paused_until
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
        if self._flight is None and self._paused_until > monotonic():
            times.append(self._paused_until)
        if self._dropping is not None:
            times.append(monotonic() + RETRY_PAUSE)
        return min(times)

    def describe(self, name: Hashable, channel: str, trouble: Trouble) -> DurableStatus:
        """Return the status. Any thread may call it.

        Args:
            name: The subscription's id.
            channel: Its channel.
            trouble: Since when the log can't be read, and why.
        """
        figures, since, flight, lag = self.figures, self.behind_since, self._flight, 0
        if figures is not None and (self._is_elsewhere or self._paused_until > monotonic()):
            since, lag = figures.oldest, figures.behind
        elif flight is not None:
            newest = flight.rows[-1].id if figures is None else figures.newest
            lag = max(len(flight.rows), newest - flight.rows[0].id + 1)
        seconds = (datetime.now(UTC) - since).total_seconds() if since is not None else 0.0
        return DurableStatus(
            id=str(name),
            channel=channel,
            last_id=self.last_id,
            lag=lag,
            lag_seconds=max(0.0, seconds),
            rate=self.rate,
            attempts=max(self._attempts, figures.attempts if figures is not None else 0),
            failed=figures.failed if figures is not None else 0,
            dead=figures.dead if figures is not None else 0,
            held_since=self.held_since,
            since=trouble.since,
            why=trouble.why,
        )

    def become(self, sub: int) -> None:
        """Have a number in the log. If it is another one, a new position was made."""
        if sub != self.sub:
            self.begin_again()
            self.sub = sub

    def begin_again(self) -> None:
        """Trust nothing that is known of the log. What is under way is read again afterwards."""
        self.sub, self._is_locked = None, False
        self._known = self._ahead = self._dropping = None
        if self._flight is not None:
            self._flight = replace(self._flight, is_void=True)
        self._retries.void()

    def disconnect(self) -> None:
        """Note that the session has ended, and its locks with it. What is under way stays so."""
        self._is_locked = False

    def visit(self, session: LogSession) -> bool:
        """Save what is settled, and read on; return whether to visit it again at once.

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
        more = False
        if monotonic() >= self._paused_until and self._lock(session):
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
        if self._is_locked or self.sub is None or now < self._lock_at:
            return self._is_locked
        if self.is_busy:  # it was held by an earlier session
            self._is_locked = session.lock(self.sub)
            self._is_elsewhere = not self._is_locked
        else:
            keep = now >= min(self._retries.due_at, self._saved_at + self._save_pause)
            self._fetched = session.advance(
                self.sub, self._known_ahead, self._ahead, self._limit, keep=keep
            )
            self._is_elsewhere = self._fetched is None
            self._is_locked = self._fetched is not None and self._fetched.is_held
        if self._is_elsewhere:
            self._lock_at = now + LOCK_PAUSE
        return not self._is_elsewhere

    @property
    def _known_ahead(self) -> int | None:
        """The number of the position that `_ahead` belongs to."""
        return None if self._ahead is None else self._known

    @property
    def _holds(self) -> bool:
        """Whether an entry that fails holds up those that follow."""
        return self.durability.on_failure == "stop"

    @property
    def _limit(self) -> int:
        return 1 if self._holds else max(BATCH, self.binding.dispatcher.batch_size)

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
            window = session.take(self.sub, self._known_ahead, self._ahead)
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
        if window.n != self._known:
            is_new = self._known is None
            self._known, self._ahead = window.n, None
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
        if self._holds:
            rows = [row._replace(attempts=self._attempts) for row in rows]
        self.latest = len(rows)
        self.behind_since = rows[0].published_at
        self._saved_at = monotonic()
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
        self._ahead = window.target
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
            if self._save(session, place, failed):
                self.last_id = head[-1].id
                self.delivered += len(head)
                self._attempts, self.held_since = 0, None
            else:
                left = None
        # Only now: if the session has just ended, it is saved in the next one.
        self._flight = left
        if len(head) == len(flight.rows):
            self._backoff, self._paused_until = Backoff(), -math.inf
        elif has_ended:  # the rest was dropped, and is read again
            self._paused_until = monotonic() + self._backoff.pause()

    def _save(self, session: LogSession, place: Place, failed: Sequence[Failed] = ()) -> bool:
        """Move the position; return False if it was moved elsewhere meanwhile."""
        assert self.sub is not None
        assert self._known is not None
        self._known = session.save(self.sub, self._known, place, failed)
        self._ahead = None
        self._saved_at = monotonic()
        if self._known is None:
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
        self._attempts += 1
        self._paused_until = monotonic() + retry_pause(self._attempts)
        if self.held_since is None:
            self.held_since = datetime.now(UTC)
            report_held(self.binding.subscription, flight.rows[0])
