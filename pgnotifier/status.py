"""What `Notifier.status()` and `on_state` say."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from pgnotifier.notification import Gap


@dataclass(frozen=True, slots=True)
class Latency:
    """How long round trips to the server have taken since the start, in seconds.

    Attributes:
        last: The latest.
        mean: Of all.
        highest: The slowest.
        count: How many there were.
    """

    last: float
    mean: float
    highest: float
    count: int

    def plus(self, seconds: float) -> "Latency":
        """Return it with one more round trip."""
        count = self.count + 1
        mean = self.mean + (seconds - self.mean) / count
        return Latency(seconds, mean, max(self.highest, seconds), count)


logger = logging.getLogger("pgnotifier.states")


State = Literal["starting", "listening", "disconnected", "standby", "stopped"]


@dataclass(frozen=True, slots=True)
class StateChange:
    """What a listener does from now on.

    Attributes:
        state: `starting` until the first connection is made; `listening` to every channel;
            `disconnected` while there is no working connection; `standby` while another listener
            leads; `stopped`.
        since: Aware, in UTC.
        why: Why it is disconnected, or hasn't connected yet, in words; else None.
    """

    state: State
    since: datetime
    why: str | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return {"state": self.state, "since": self.since.isoformat(), "why": self.why}


OnState = Callable[[StateChange], object]


@dataclass(frozen=True, slots=True)
class DispatcherStatus:
    """One dispatcher of a running listener.

    Attributes:
        name: The dispatcher's class.
        waiting: How many notifications and deliveries are in its buffer.
        delivered: How many deliveries it has finished since the start.
        dropped: How many notifications the overflow policy has dropped since the start.
        full: Whether the reader pauses for it.
        retrying: Whether its queue is down, and the batch at hand being retried.
        since: Since when it is full or retries; aware, in UTC. None if it does neither.
        why: Why that is, in words; else None.
        details: What else it tells of itself; that of Celery lists its tasks.
    """

    name: str
    waiting: int
    delivered: int
    dropped: int
    full: bool
    retrying: bool
    since: datetime | None
    why: str | None
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    """A notifier at one moment.

    Attributes:
        state: `starting`, `listening`, `disconnected`, `standby` or `stopped`.
        since: Since when; aware, in UTC.
        why: Why it is disconnected, or hasn't connected yet; or why nothing is read although it is
            listening, and since when: a buffer is full. In words; else None.
        connection: Where it connects to, without the password.
        channels: How many channels are registered.
        subscriptions: How many subscriptions there are.
        received: How many notifications were read since the start.
        channel_counts: How many of these came on each channel, of those that are registered and
            on which something came.
        errors: How many deliveries have failed in this notifier.
        reconnects: How many times the connection was replaced since the start.
        latency: How long round trips to the server take; None before the first.
        queue_usage: How full PostgreSQL's queue of notifications was at the last look, once a
            minute, as a fraction; None before the first.
        gaps: How many gaps were reported by this notifier.
        last_gap: The latest of them.
        dispatchers: Those that something was received for.
    """

    state: State
    since: datetime
    why: str | None
    connection: str
    channels: int
    subscriptions: int
    received: int
    channel_counts: Mapping[str, int]
    errors: int
    reconnects: int
    latency: Latency | None
    queue_usage: float | None
    gaps: int
    last_gap: Gap | None
    dispatchers: tuple[DispatcherStatus, ...]

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return {
            **asdict(self),
            "since": self.since.isoformat(),
            "last_gap": self.last_gap and self.last_gap.to_dict(),
            "dispatchers": tuple(
                {**asdict(one), "since": one.since and one.since.isoformat()}
                for one in self.dispatchers
            ),
        }
