"""Account for every notification that the demo sent: executed, in a gap, lost, or doubled."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification that the demo sent.

    Attributes:
        channel: Its channel.
        text: Its payload, as it was sent to PostgreSQL.
        begun_at: When its transaction began, in seconds since the epoch.
        committed_at: When its COMMIT had returned, in seconds since the epoch.
    """

    channel: str
    text: str
    begun_at: float
    committed_at: float

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
    """The result of a run. Latencies are in milliseconds, or None if nothing was executed.

    Attributes:
        sent: How many notifications were sent.
        executed: How many of these were executed by a task.
        in_gap: Notifications that were not executed, but lie inside a reported gap.
        unexplained: Notifications that were not executed, and don't lie inside a gap.
        doubled: Notifications that were executed more than once.
        median: Median latency, from the beginning of the transaction to the running task.
        p99: The 99th percentile of the latency.
    """

    sent: int
    executed: int
    in_gap: tuple[Sent, ...]
    unexplained: tuple[Sent, ...]
    doubled: tuple[Sent, ...]
    median: float | None
    p99: float | None

    @property
    def is_good(self) -> bool:
        """Whether each was executed once, or lies inside a reported gap."""
        return not self.unexplained and not self.doubled


class Account:
    """Everything that was sent, executed and reported. Only the main thread uses it."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        self.executions: dict[str, list[Execution]] = defaultdict(list)
        self.gaps: list[ReportedGap] = []

    def find_missing(self) -> list[Sent]:
        """Return the notifications that were sent and have not been executed."""
        return [sent for key, sent in self.sent.items() if not self.executions.get(key)]

    def find_unexplained(self) -> list[Sent]:
        """Return the notifications that were not executed, and don't lie inside a reported gap."""
        return [sent for sent in self.find_missing() if not self.is_in_gap(sent)]

    def is_in_gap(self, sent: Sent) -> bool:
        """Return whether a notification may lie inside a reported gap."""
        return any(gap.may_hold(sent) for gap in self.gaps)

    def settle(self) -> Summary:
        """Return the result so far."""
        missing = self.find_missing()
        latencies = sorted(self._latencies())
        return Summary(
            sent=len(self.sent),
            executed=len(self.sent) - len(missing),
            in_gap=tuple(filter(self.is_in_gap, missing)),
            unexplained=tuple(self.find_unexplained()),
            doubled=tuple(s for k, s in self.sent.items() if len(self.executions.get(k, ())) > 1),
            median=statistics.median(latencies) if latencies else None,
            p99=percentile(latencies, 99) if latencies else None,
        )

    def tally(self) -> Mapping[str, Mapping[int, int]]:
        """Return how many tasks each worker process has run, by worker and pid."""
        counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for execution in self._all_executions():
            counts[execution.worker][execution.pid] += 1
        return counts

    def _latencies(self) -> Iterable[float]:
        for key, sent in self.sent.items():
            for execution in self.executions.get(key, ())[:1]:
                yield (execution.at - sent.begun_at) * 1000

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
