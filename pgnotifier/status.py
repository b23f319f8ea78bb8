"""The values that `Notifier.status()` returns and `on_state` is called with."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pgnotifier.durability import MaxLag
from pgnotifier.notification import Gap


@dataclass(frozen=True, slots=True)
class Latency:
    """The duration of round trips to the server since the start, in seconds.

    Attributes:
        last: The duration of the latest.
        mean: The mean duration.
        highest: The duration of the slowest.
        count: The number of round trips.
    """

    last: float
    mean: float
    highest: float
    count: int

    def plus(self, seconds: float) -> "Latency":
        """Return a new value that includes one more round trip."""
        count = self.count + 1
        mean = self.mean + (seconds - self.mean) / count
        return Latency(seconds, mean, max(self.highest, seconds), count)


@dataclass(frozen=True, slots=True)
class Delay:
    """How long batches took from being received to being dispatched, in seconds.

    It is measured once for each batch, for its oldest notification, and covers the last minute, or
    the last 1,000 batches if there were more.

    Attributes:
        median: Half of them took this long at most.
        p95: 95 % of them did.
        p99: 99 % of them did.
        highest: The longest.
        count: How many batches there were.
    """

    median: float
    p95: float
    p99: float
    highest: float
    count: int


State = Literal["starting", "listening", "disconnected", "standby", "stopped"]


@dataclass(frozen=True, slots=True)
class StateChange:
    """The new state of a listener.

    Attributes:
        state: `starting` until the first connection is made; `listening` to every channel;
            `disconnected` while there is no working connection; `standby` while another listener
            is the leader; `stopped`.
        since: When the state began; aware, in UTC.
        why: The reason why it is disconnected, or hasn't connected yet. Otherwise None.
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
        name: The name of the dispatcher's class.
        waiting: How many notifications and deliveries are in its buffer.
        delivered: How many deliveries it has finished since the start.
        dropped: How many notifications the overflow policy has dropped since the start.
        full: Whether its buffer is full, so that the reader pauses.
        retrying: Whether its queue is down, and it retries the current batch.
        since: Since when it is full or retrying; aware, in UTC. None if it is neither.
        why: The reason for that, or None.
        details: What the dispatcher reports about itself. Celery's lists its tasks.
        waiting_bytes: The size of the payloads in its buffer.
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
    waiting_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DurableStatus:
    """One durable subscription of a running notifier, as it was a few seconds ago at most.

    Attributes:
        id: The subscription's id.
        channel: Its channel.
        last_id: The number of the latest entry that this process has delivered to it.
        lag: About how many entries it is behind. Those of other channels are counted as well,
            because the log isn't kept by channel.
        lag_seconds: How long ago the oldest entry was published that isn't delivered yet.
        rate: How many entries a second this process has delivered to it lately; None at first.
        attempts: How often the entry that was tried most often was tried, of those that are going
            to be retried, or hold it up.
        failed: How many entries have failed, and are going to be retried.
        dead: How many entries have failed for good: see `pgnotifier dead list`.
        held_since: Since when an entry that fails holds it up, with `on_failure="stop"`.
        since: Since when the log can't be read; aware, in UTC. None if it can.
        why: The reason for that, or None.
    """

    id: str
    channel: str
    last_id: int | None
    lag: int
    lag_seconds: float
    rate: float | None
    attempts: int
    failed: int
    dead: int
    held_since: datetime | None
    since: datetime | None
    why: str | None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return {
            **asdict(self),
            "held_since": self.held_since and self.held_since.isoformat(),
            "since": self.since and self.since.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Position:
    """One durable subscription of a database, whether or not anybody reads it.

    Attributes:
        name: The subscription's id.
        channel: Its channel.
        saved_at: When its position was last saved.
        lag: How many entries it has not got. If there are over a thousand, this is an upper bound,
            which counts the entries of other channels as well. None if the position was copied
            from another server, and nobody has read it since.
        lag_seconds: How long ago the oldest of them was published, at most.
        rate: How many entries a second its reader has got in the last minute; None if nobody
            reads it, or it isn't known.
        failed: How many entries have failed, and are going to be retried.
        attempts: How often the one of these that was tried most often was tried.
        dead: How many have failed for good.
        reader_pid: The session in the server that reads it, or None.
        unread_since: Since when nobody reads it, to a minute; None if somebody does.
        max_lag: How far it may be behind; None for no limit.
        dropped: How many entries were dropped because of that, and are going to be reported to
            it. It may be fewer.
        slots: The slots of the log that it keeps, as it has not got all that they hold.
        kept_bytes: The size of these slots.
    """

    name: str
    channel: str
    saved_at: datetime | None
    lag: int | None
    lag_seconds: float
    rate: float | None
    failed: int
    attempts: int
    dead: int
    reader_pid: int | None
    unread_since: datetime | None
    max_lag: MaxLag | None
    dropped: int
    slots: tuple[int, ...]
    kept_bytes: int

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return to_jsonable(self)


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the tables that the log consists of. It is truncated as a whole.

    Attributes:
        number: Its number.
        size: Its bytes, with indexes.
        is_current: Whether new entries go to it.
        first_id: The number of its first entry; None if it has none, or none that is committed.
        last_id: That of its last entry.
        oldest: When the first entry was published.
        newest: When the last entry was published.
    """

    number: int
    size: int
    is_current: bool
    first_id: int | None
    last_id: int | None
    oldest: datetime | None
    newest: datetime | None


HolderKind = Literal["subscription", "transaction", "prepared", "reader", "retention"]


@dataclass(frozen=True, slots=True)
class Holder:
    """What keeps slots of the log from being truncated, other than the current one.

    Attributes:
        kind: A `subscription` that has not got everything; an open `transaction` that has published
            into a slot, or a `prepared` one; a `reader` of the table, such as pg_dump; or the
            `retention` of the log.
        slots: The slots.
        size: Their size.
        since: Since when: a subscription is behind, a transaction is open. None if the role may
            not see that.
        name: The id of the subscription.
        channel: Its channel.
        pid: The pid of the session.
        gid: The name of the prepared transaction.
    """

    kind: HolderKind
    slots: tuple[int, ...]
    size: int
    since: datetime | None = None
    name: str | None = None
    channel: str | None = None
    pid: int | None = None
    gid: str | None = None

    def __str__(self) -> str:
        match self.kind:
            case "subscription":
                return f"subscription {self.name!r} on channel {self.channel!r}"
            case "transaction":
                return f"the open transaction of pid {self.pid}"
            case "prepared":
                return f"the prepared transaction {self.gid!r}"
            case "reader":
                return f"pid {self.pid}, which reads the log for long"
            case "retention":
                return "the retention"


@dataclass(frozen=True, slots=True)
class LogState:
    """The durable log of a database.

    Attributes:
        size: Its bytes, with indexes.
        quota: How many it may have; None for any number.
        is_full: Whether it has reached its quota, so that publications are refused.
        retention: How long entries are kept at least.
        slots: The slots that hold something.
        holders: What holds its space back, that which holds most back first.
    """

    size: int
    quota: int | None
    is_full: bool
    retention: timedelta
    slots: tuple[Slot, ...]
    holders: tuple[Holder, ...]

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return to_jsonable(self)


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a notifier at one moment.

    Attributes:
        state: `starting`, `listening`, `disconnected`, `standby` or `stopped`.
        since: Since when; aware, in UTC.
        why: The reason why it is disconnected, or hasn't connected yet. If it is listening but
            has paused reading because a buffer is full: that, and since when. Otherwise None.
        connection: Where it connects to, without the password.
        channels: How many channels are registered.
        subscriptions: How many subscriptions there are.
        received: How many notifications were read since the start.
        channel_counts: How many of these were read on each channel. Only channels that are
            registered and have received something are included.
        errors: How many deliveries have failed in this notifier.
        reconnects: How many times the connection was replaced since the start.
        latency: The duration of round trips to the server; None before the first.
        queue_usage: How full PostgreSQL's queue of notifications was when it was last checked,
            as a fraction; it is checked once a minute. None before the first check.
        gaps: How many gaps this notifier has reported.
        last_gap: The latest gap.
        dispatchers: The dispatchers for which something was received.
        durable: The durable subscriptions.
        log: The durable log, as it was half a minute ago at most; None without durable
            subscriptions, or if it isn't known.
        gap_seconds: How long the gaps were together.
        delivered_counts: How many deliveries the dispatchers of each class have finished since the
            start, those included that have no subscription any more.
        dropped_counts: How many notifications overflow policies have dropped, likewise.
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
    durable: tuple[DurableStatus, ...] = ()
    log: LogState | None = None
    gap_seconds: float = 0.0
    delivered_counts: Mapping[str, int] = field(default_factory=dict)
    dropped_counts: Mapping[str, int] = field(default_factory=dict)

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
            "durable": tuple(one.to_dict() for one in self.durable),
            "log": self.log and self.log.to_dict(),
        }


def to_jsonable(value: Any) -> Mapping[str, Any]:
    """Return the fields of a dataclass as JSON-able values."""
    return {one.name: _jsonable(getattr(value, one.name)) for one in fields(value)}


def _jsonable(value: Any) -> Any:
    """Return times in ISO 8601, durations in seconds, and dataclasses as dicts."""
    if is_dataclass(value):
        return to_jsonable(value)
    if isinstance(value, tuple):
        return tuple(map(_jsonable, value))
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else value
