"""Report the entries that were dropped because a durable subscription exceeded its `max_lag`."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from time import monotonic

from pgnotifier._delivery.buffer import GapMarker
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.receipt import Ledger, SharedReceipt
from pgnotifier._durable.rows import Missed
from pgnotifier.dispatch import Binding, Delivery
from pgnotifier.notification import Dropped, Entry, Gap

RETRY_PAUSE = 1.0
"""Seconds before a gap is delivered again if it was lost, because of a mute, say."""
ReportDropped = Callable[[Gap, Callable[[], object]], object]
"""Logs a gap, has `on_gap` called, and calls something once it has returned."""


class Dropping:
    """The gap of one subscription: `Notifier(on_gap=…)` gets it first, then its own `on_gap`.

    The database keeps it until both are done, so that it is reported after a crash, too. The
    source's thread owns it; hooks and dispatchers note on their threads what they have done.

    Attributes:
        missed: The records of the database.
    """

    def __init__(self, binding: Binding, missed: Sequence[Missed]) -> None:
        """Make a gap of what was dropped.

        Args:
            binding: The subscription.
            missed: The records of the database: at least one.
        """
        self.missed = missed
        self._binding = binding
        self._gap = reduce(Gap.merge, (_make_gap(binding, one) for one in missed))
        self._is_reported = False
        self._ledger: Ledger | None = None
        self._tried_at = -math.inf

    @property
    def is_idle(self) -> bool:
        """Whether it isn't being reported at the moment."""
        return self._is_reported and (self._ledger is None or self._ledger.is_lost)

    def report(self, report: ReportDropped, on_change: Callable[[], object]) -> None:
        """Have it logged, and `Notifier(on_gap=…)` called.

        Args:
            report: Does both.
            on_change: Called on any thread once that is done.
        """

        def note() -> None:
            self._is_reported = True
            on_change()

        report(self._gap, note)

    def advance(
        self, hand_over: Callable[[GapMarker], object], on_change: Callable[[], object]
    ) -> bool:
        """Have it delivered to the subscription when it is time; return whether both are done.

        Args:
            hand_over: Gives a delivery to the deliverer.
            on_change: Called on any thread once it is done, or lost.
        """
        if not self._is_reported:
            return False
        to = self._binding.latest().on_gap
        if to is None or (self._ledger is not None and self._ledger.is_done):
            return True
        is_due = to.live and monotonic() >= self._tried_at + RETRY_PAUSE
        if is_due and (self._ledger is None or self._ledger.is_lost):
            self._tried_at = monotonic()
            self._ledger = self._deliver(to, hand_over, on_change)
        return False

    def _deliver(
        self,
        to: Binding,
        hand_over: Callable[[GapMarker], object],
        on_change: Callable[[], object],
    ) -> Ledger:
        number = self.missed[-1].n
        ledger = Ledger([number], on_change)
        plain = self._gap.to_notification(to.subscription.channel)
        entry = Entry(
            plain.channel,
            plain.payload,
            plain.raw,
            plain.pid,
            plain.received_at,
            id=number,
            published_at=self._gap.until,
            receipt=SharedReceipt(ledger, to.mutes),
        )
        hand_over(GapMarker([Delivery(to, entry)]))
        return ledger


class Missing:
    """Has what a subscription has missed reported before it reads on.

    The source's thread owns it.
    """

    def __init__(self, report: ReportDropped, on_change: Callable[[], object]) -> None:
        """Begin with nothing to report.

        Args:
            report: Logs and reports a gap.
            on_change: Called on any thread once something has been done about it.
        """
        self._report = report
        self._on_change = on_change
        self._dropping: Dropping | None = None

    @property
    def is_busy(self) -> bool:
        """Whether something is being reported."""
        return self._dropping is not None

    @property
    def due_at(self) -> float:
        """When to visit it next."""
        return monotonic() + RETRY_PAUSE if self.is_busy else math.inf

    def take(self, session: LogSession, sub: int, binding: Binding) -> bool:
        """Have what was dropped reported; return whether anything was.

        Args:
            session: The session.
            sub: The subscription's number.
            binding: The subscription.
        """
        missed = session.take_missed(sub)
        if missed:
            self._dropping = Dropping(binding, missed)
            self._dropping.report(self._report, self._on_change)
        return self.is_busy

    def settle(self, session: LogSession, hand_over: Callable[[GapMarker], object]) -> None:
        """Have the database forget what was dropped, once it is reported.

        Args:
            session: The session.
            hand_over: Gives a delivery to the deliverer.
        """
        dropping = self._dropping
        if dropping is not None and dropping.advance(hand_over, self._on_change):
            session.forget_missed(dropping.missed)
            self._dropping = None

    def give_up(self, forget: Callable[[], object]) -> None:
        """Leave it to whoever reads next, unless it is being reported at the moment.

        The subscription was muted or removed here, so that may last for as long as the process.

        Args:
            forget: Forgets the position, so that this source looks again when it reads on.
        """
        if self._dropping is not None and self._dropping.is_idle:
            self._dropping = None
            forget()

    def forget(self) -> None:
        """Stop reporting. The database keeps its records."""
        self._dropping = None


def _make_gap(binding: Binding, missed: Missed) -> Gap:
    subscription = binding.subscription
    dropped = Dropped(
        str(subscription.id),
        subscription.channel,
        missed.entries,
        missed.is_exact,
        missed.from_id,
        missed.to_id,
    )
    return Gap(
        missed.since,
        missed.until,
        frozenset({subscription.channel}),
        f"subscription {dropped.subscription!r} was further behind than its max_lag",
        (dropped,),
    )
