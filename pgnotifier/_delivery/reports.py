"""Reports: errors of callbacks and gaps, to the log and to the user's hooks."""

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

from pgnotifier._runtime.hooks import Hook
from pgnotifier._runtime.log_records import QUIET, LogThrottle, about, count
from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.dispatch import Subscription
from pgnotifier.notification import Gap, Notification

logger = logging.getLogger("pgnotifier.reporting")

OnError = Callable[[BaseException, Subscription, Notification], object]
OnGap = Callable[[Gap], object]
REMEMBERED = 10_000
"""How many kinds of errors are remembered, as subscriptions may come and go without end."""


RECENT = 20
"""How many gaps are remembered."""


class ErrorReport:
    """Logs a failed delivery with its traceback, and calls `on_error`.

    A callback that fails a thousand times a second is one incident: it is logged once a minute
    for each type of exception, with the number of failures in between. `on_error` is called for
    each of them.
    """

    def __init__(self, on_error: OnError | None) -> None:
        self.count = 0
        self._on_error = on_error
        self._lock = ForkSafeLock()
        self._quiet: dict[object, tuple[float, int]] = {}  # until when, and how many since

    def __call__(
        self, exc: BaseException, subscription: Subscription, notification: Notification
    ) -> None:
        """Report one failed delivery. Never raises."""
        kind = (subscription.id, subscription.channel, type(exc))
        now = monotonic()
        with self._lock:
            self.count += 1
            until, unlogged = self._quiet.get(kind, (0.0, 0))
            log = now >= until
            if log:
                self._quiet.pop(kind, None)  # so that it becomes the latest
                self._quiet[kind] = (now + QUIET, 0)
                if len(self._quiet) > REMEMBERED:
                    del self._quiet[next(iter(self._quiet))]
            else:
                self._quiet[kind] = (until, unlogged + 1)
        if log:
            # A durable delivery is tried again. Once it has failed for good, that is an ERROR.
            level = logging.ERROR if subscription.durability is None else logging.WARNING
            logger.log(
                level,
                "subscription %r on channel %r failed%s",
                subscription.id,
                subscription.channel,
                f" (and {count(unlogged, 'time')} since the last report)" if unlogged else "",
                exc_info=exc,
                extra=about(
                    "delivery_failed",
                    subscription=subscription.id,
                    channel=subscription.channel,
                    dispatcher=type(subscription.dispatcher).__name__,
                    count=unlogged + 1,
                    error=type(exc).__name__,
                ),
            )
        if self._on_error is not None:
            try:
                self._on_error(exc, subscription, notification)
            except BaseException:
                logger.exception(
                    "on_error itself failed", extra=about("hook_failed", hook="on_error")
                )


class GapReport(Hook):
    """Logs a gap, and calls `on_gap` on a thread of its own, one gap after the other."""

    def __init__(self, on_gap: OnGap | None) -> None:
        self.count = 0
        self.seconds = 0.0
        self.last: Gap | None = None
        self._recent: deque[Gap] = deque(maxlen=RECENT)
        super().__init__("on_gap", on_gap, Gap.merge)
        self._is_handled = on_gap is not None
        self._warn = LogThrottle(logger, others=logging.INFO)
        self._warn_dropped: dict[tuple[str, str], LogThrottle] = {}
        self._lock = ForkSafeLock()

    def __call__(self, gap: Gap, then: Callable[[], object] | None = None) -> None:
        """Report one gap. Called by the reader alone.

        It is a WARNING, unless there is an `on_gap` to handle it.

        Args:
            gap: The gap.
            then: Called once `on_gap` has returned.
        """
        self._note(gap)
        log = logger.info if self._is_handled else self._warn
        log(
            "notifications may have been missed from %s to %s on %s: %s",
            gap.since.isoformat(),
            gap.until.isoformat(),
            count(len(gap.channels), "channel"),
            gap.reason,
            extra=about(
                "gap",
                since=gap.since,
                until=gap.until,
                channels=sorted(gap.channels),
                count=len(gap.channels),
                why=gap.reason,
            ),
        )
        self.call(gap, then)

    def report_dropped(self, gap: Gap, then: Callable[[], object]) -> None:
        """Report what a durable subscription has missed. Called by any source.

        It is a WARNING even if there is an `on_gap`: what is durable isn't expected to be missed.

        Args:
            gap: The gap.
            then: Called once `on_gap` has returned.
        """
        self._note(gap)
        for one in gap.dropped:
            key = (one.subscription, one.channel)
            warn = self._warn_dropped.setdefault(key, LogThrottle(logger, others=logging.INFO))
            warn(
                "subscription %r on channel %r has missed %s%s, from %d to %d, published from %s "
                "to %s: it was further behind than its max_lag",
                one.subscription,
                one.channel,
                "" if one.is_exact else "up to ",
                count(one.entries, "entry", "entries"),
                one.from_id,
                one.to_id,
                gap.since.isoformat(),
                gap.until.isoformat(),
                extra=about(
                    "dropped_behind",
                    subscription=one.subscription,
                    channel=one.channel,
                    count=one.entries,
                    since=gap.since,
                    until=gap.until,
                ),
            )
        self.call(gap, then)

    def _note(self, gap: Gap) -> None:
        with self._lock:
            self.count += 1
            # If the clock was set back, the end may be before the beginning.
            self.seconds += max(0.0, (gap.until - gap.since).total_seconds())
            self.last = gap
            self._recent.appendleft(gap)

    def latest(self) -> list[Gap]:
        """Return the latest gaps, the newest first."""
        with self._lock:
            return [*self._recent]
