"""What `Notifier.status()` returns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pgnotifier.latency import Latency
from pgnotifier.notification import Gap
from pgnotifier.states import State


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
        state: `starting`, `hearing`, `deaf`, `standby` or `stopped`.
        since: Since when; aware, in UTC.
        why: What made it deaf, or keeps it so, or from connecting at the start, or from reading
            although it hears, as a buffer is full; in words, with the time since when nothing is
            read. Else None.
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
