"""Figures of the last hour, which the page draws as lines."""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pgnotifier._inquiry.report import ListenerReport, Survey

HOUR = 3600.0
"""Seconds that are kept."""
STEP = 5.0
"""Seconds between two points, at least: 720 of them are an hour."""
GAPS = 200
"""How many gaps are kept."""


@dataclass(frozen=True, slots=True)
class Point:
    """The figures of one moment, summed or the worst over all listeners.

    Attributes:
        at: Unix time in seconds.
        received: Notifications a second.
        delivered: Deliveries a second.
        delay: The median of the seconds from being received to being dispatched, of the dispatcher
            that takes longest; None if nothing was dispatched.
        delay_p95: The same for 95 % of the batches.
        round_trip: The seconds of the longest of the latest round trips; None without any.
        waiting: How much waits in buffers.
        lag: How many entries durable subscriptions are behind, in the one that is most behind.
        lag_seconds: How long the oldest entry has waited, in the one that is most behind.
        queue_usage: How full PostgreSQL's queue of notifications is; None if it isn't known.
    """

    at: float
    received: float
    delivered: float
    delay: float | None
    delay_p95: float | None
    round_trip: float | None
    waiting: int
    lag: int
    lag_seconds: float
    queue_usage: float | None


class History:
    """Keeps a point every few seconds, and the latest gaps."""

    def __init__(self, step: float = STEP) -> None:
        """Begin without a point.

        Args:
            step: Seconds between two points, at least.
        """
        self._step = step
        self.points: deque[Point] = deque(maxlen=int(HOUR / step))
        self.gaps: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, survey: Survey, at: float) -> Point | None:
        """Take a survey; return the new point, or None if it comes too early for one."""
        self._note_gaps(survey.reports)
        if self.points and at - self.points[-1].at < self._step * 0.9:
            return None
        point = make_point(survey.reports, at)
        self.points.append(point)
        return point

    def _note_gaps(self, reports: Iterable[ListenerReport]) -> None:
        for report in reports:
            for gap in report.last_gaps:
                key = (report.id, gap.since.isoformat())
                self.gaps[key] = {
                    "listener": report.id,
                    "since": gap.since.isoformat(),
                    "until": gap.until.isoformat(),
                    "reason": gap.reason,
                    "channels": list(gap.channels),
                    "channel_count": gap.channel_count,
                }
        while len(self.gaps) > GAPS:
            del self.gaps[next(iter(self.gaps))]

    def to_dict(self) -> dict[str, Any]:
        """Return all points and gaps as JSON-able values."""
        return {"points": [asdict(one) for one in self.points], "gaps": [*self.gaps.values()]}


def make_point(reports: Iterable[ListenerReport], at: float) -> Point:
    """Return the figures of a survey's reports."""
    found = [*reports]
    dispatchers = [one for report in found for one in report.dispatchers]
    durable = [one for report in found for one in report.durable]
    delays = [one.delay for one in dispatchers if one.delay is not None]
    return Point(
        at=at,
        received=sum(report.rate or 0.0 for report in found),
        delivered=sum(one.rate or 0.0 for one in dispatchers)
        + sum(one.rate or 0.0 for one in durable),
        delay=max((one.median for one in delays), default=None),
        delay_p95=max((one.p95 for one in delays), default=None),
        round_trip=_highest(one.latency.last for one in found if one.latency is not None),
        waiting=sum(one.waiting for one in dispatchers),
        lag=max((one.lag for one in durable), default=0),
        lag_seconds=max((one.lag_seconds for one in durable), default=0.0),
        queue_usage=_highest(one.queue_usage for one in found),
    )


def _highest(values: Iterable[float | None]) -> float | None:
    return max((one for one in values if one is not None), default=None)
