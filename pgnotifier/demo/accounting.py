"""Account for all that the demo sent: executed, in a gap, lost, or doubled."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification that the demo sent, or an entry that it published durably.

    Attributes:
        channel: Its channel.
        text: Its payload, as it was sent to PostgreSQL.
        begun_at: When its transaction began, in seconds since the epoch.
        committed_at: When its COMMIT had returned, in seconds since the epoch.
        is_durable: Whether it was published durably, so that no gap explains that it is missing.
    """

    channel: str
    text: str
    begun_at: float
    committed_at: float
    is_durable: bool = False

    @property
    def key(self) -> str:
        """The text that identifies it, here and in the task that gets it."""
        return make_key(self.channel, json.loads(self.text))


@dataclass(frozen=True, slots=True)
class Execution:
    """A task that ran.

    Attributes:
        channel: The channel that it was called with.
        payload: The payload that it was called with.
        worker: The name of its worker.
        pid: The process id of the worker process that ran it.
        at: When it began to run, in seconds since the epoch.
    """

    channel: str
    payload: Any
    worker: str
    pid: int
    at: float

    @property
    def key(self) -> str:
        """The key of the notification that it got."""
        return make_key(self.channel, self.payload)


@dataclass(frozen=True, slots=True)
class ReportedGap:
    """A gap that the listener reported, with times in seconds since the epoch."""

    since: float
    until: float
    reason: str

    def may_hold(self, sent: Sent) -> bool:
        """Return whether a notification may have been committed in the gap."""
        return sent.begun_at <= self.until and sent.committed_at >= self.since


@dataclass(frozen=True, slots=True)
class Summary:
    """The result for plain notifications, or for durable ones.

    Latencies are in milliseconds, or None if nothing was executed.

    Attributes:
        sent: How many were sent.
        executed: How many of these were executed by a task.
        cut_off: How many were sent while the listener was cut off.
        in_gap: Those that were not executed, but lie inside a reported gap. Never durable ones.
        unexplained: Those that were not executed, and don't lie inside a gap.
        doubled: Those that were executed more than once.
        median: Median latency, from the beginning of the transaction to the running task.
        p99: The 99th percentile of the latency.
    """

    sent: int
    executed: int
    cut_off: int
    in_gap: tuple[Sent, ...]
    unexplained: tuple[Sent, ...]
    doubled: tuple[Sent, ...]
    median: float | None
    p99: float | None

    @property
    def is_good(self) -> bool:
        """Whether each was executed once, or lies inside a reported gap."""
        return not self.unexplained and not self.doubled


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run: plain notifications beside durable ones."""

    plain: Summary
    durable: Summary

    @property
    def is_good(self) -> bool:
        """Whether each was executed once, or was plain and lies inside a reported gap."""
        return self.plain.is_good and self.durable.is_good


class Account:
    """Everything that was sent, executed and reported. Only the main thread uses it."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.executions: dict[str, list[Execution]] = defaultdict(list)
        self.gaps: list[ReportedGap] = []
        self.cut_at: float | None = None  # when the listener was cut off

    def find_missing(self) -> list[Sent]:
        """Return the notifications that were sent and have not been executed."""
        return [sent for key, sent in self.sent.items() if not self.executions.get(key)]

    def find_unexplained(self) -> list[Sent]:
        """Return the notifications that were not executed, and don't lie inside a reported gap."""
        return [sent for sent in self.find_missing() if not self.is_in_gap(sent)]

    def is_in_gap(self, sent: Sent) -> bool:
        """Return whether a plain notification may lie inside a reported gap."""
        return not sent.is_durable and any(gap.may_hold(sent) for gap in self.gaps)

    def settle(self) -> Result:
        """Return the result so far."""
        return Result(self._sum_up(durable=False), self._sum_up(durable=True))

    def _sum_up(self, *, durable: bool) -> Summary:
        ours = {key: sent for key, sent in self.sent.items() if sent.is_durable is durable}
        runs = {key: self.executions.get(key, []) for key in ours}
        missing = [sent for key, sent in ours.items() if not runs[key]]
        latencies = sorted(
            (some[0].at - ours[key].begun_at) * 1000 for key, some in runs.items() if some
        )
        return Summary(
            sent=len(ours),
            executed=len(ours) - len(missing),
            cut_off=sum(map(self.is_cut_off, ours.values())),
            in_gap=tuple(filter(self.is_in_gap, missing)),
            unexplained=tuple(sent for sent in missing if not self.is_in_gap(sent)),
            doubled=tuple(sent for key, sent in ours.items() if len(runs[key]) > 1),
            median=statistics.median(latencies) if latencies else None,
            p99=percentile(latencies, 99) if latencies else None,
        )

    def is_cut_off(self, sent: Sent) -> bool:
        """Return whether it was sent after the cut, and before the listener was back."""
        if self.cut_at is None or sent.committed_at < self.cut_at:
            return False
        back_at = max((gap.until for gap in self.gaps), default=inf)
        return sent.begun_at <= back_at

    def tally(self) -> Mapping[str, Mapping[int, int]]:
        """Return how many tasks each worker process has run, by worker and pid."""
        counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for execution in self._all_executions():
            counts[execution.worker][execution.pid] += 1
        return counts

    def _all_executions(self) -> Iterable[Execution]:
        for executions in self.executions.values():
            yield from executions


def make_key(channel: str, payload: Any) -> str:
    """Return a text that is the same for equal payloads on the same channel."""
    return f"{channel} {json.dumps(payload, sort_keys=True)}"


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest of some sorted values that `percent` per cent of them don't exceed."""
    rank = -(-len(values) * percent // 100)
    return values[max(0, rank - 1)]
