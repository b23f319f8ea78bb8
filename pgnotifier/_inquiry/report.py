"""What a running listener says about itself when it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pgnotifier.status import Delay, DurableStatus, Latency, LogState, State, to_jsonable

MOST_CHANNELS = 5_000
"""How many channels, and how many subscriptions, a report lists at most."""
SHORTEST = 1e-3
"""The least seconds between two reports that rates are made from."""


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """One channel of a listener.

    Attributes:
        name: Its name.
        received: How many notifications were read from it since the start.
        muted: Whether it is muted.
        durable: Whether it has durable subscriptions.
        rate: How many notifications a second were read between the last two answers; None if
            there was only one.
    """

    name: str
    received: int
    muted: bool
    durable: bool
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionReport:
    """One subscription of a listener.

    Attributes:
        id: Its id, as text.
        channel: Its channel.
        target: The task, the job's function or the callback that it goes to.
        queue: The queue of the task or job; None for a callback of the listener's process.
        dispatcher: The class of its dispatcher.
        muted: Whether it is muted itself.
        durable: Whether it is durable.
    """

    id: str
    channel: str
    target: str
    queue: str | None
    dispatcher: str
    muted: bool
    durable: bool


@dataclass(frozen=True, slots=True)
class DispatcherReport:
    """One dispatcher of a listener: see `DispatcherStatus`.

    Attributes:
        name: The name of its class.
        waiting: How many notifications and deliveries are in its buffer.
        size: How many may be.
        delivered: How many deliveries it has finished since the start.
        dropped: How many notifications the overflow policy has dropped since the start.
        full: Whether its buffer is full, so that the reader pauses.
        retrying: Whether its queue is down, and it retries.
        since: Since when it is full or retrying.
        why: Why.
        delay: How long batches took from being received to being dispatched; None without any in
            the last minute.
        rate: How many deliveries a second it has finished between the last two answers.
    """

    name: str
    waiting: int
    size: int
    delivered: int
    dropped: int
    full: bool
    retrying: bool
    since: datetime | None
    why: str | None
    delay: Delay | None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class GapSummary:
    """One gap that a listener has reported.

    Attributes:
        since: Its beginning.
        until: Its end.
        reason: What happened.
        channels: Up to twenty of the channels, by name.
        channel_count: How many there are.
    """

    since: datetime
    until: datetime
    reason: str
    channels: tuple[str, ...]
    channel_count: int


@dataclass(frozen=True, slots=True)
class ListenerReport:
    """What one listener of a database has answered.

    It contains no payload, no argument of a task, and no password. Whoever may connect to the
    database can ask for it, and could send a forged one.

    Attributes:
        id: Names the listener, until it ends: 16 hexadecimal digits.
        host: The name of its machine.
        pid: The pid of its process.
        backend_pid: The pid of the server process of its session; None if it isn't known.
        version: The version of pgnotifier.
        python: The version of Python.
        kind: What it works for: `celery`, `rq`, `django`, or `callbacks` of its own process.
        app: The name of the Celery app, or None.
        command: The name of the program that runs, without its arguments.
        standby: The name that it shares with others, so that only one listens; None if it has none.
        started_at: When it was started.
        uptime: The seconds since then, by a steady clock.
        measured_at: When it answered, by its own clock.
        state: `listening`, `standby` and so on: see `StateChange`. A leader is `listening`.
        since: Since when.
        why: Why it reads nothing, if that is so.
        connection: Where it connects to, without the password.
        received: How many notifications were read since the start.
        rate: How many a second, between the last two answers; None if there was only one.
        errors: How many deliveries have failed.
        dropped: How many notifications overflow policies have dropped.
        reconnects: How many times the connection was replaced.
        latency: The round trips to the server.
        queue_usage: How full PostgreSQL's queue of notifications was.
        gaps: How many gaps were reported.
        last_gaps: The latest of them, the newest first.
        channel_count: How many channels it has.
        channels: Up to 5,000 of them, by name.
        subscription_count: How many subscriptions it has.
        subscriptions: Up to 5,000 of them, by channel.
        dispatchers: Its dispatchers.
        durable: Its durable subscriptions.
        log: The durable log, as it has last looked at it.
        takes_orders: Whether channels and subscriptions can be muted from outside.
        answered_in: The seconds from the question to its answer, measured by whoever asked.
    """

    id: str
    host: str
    pid: int
    backend_pid: int | None
    version: str
    python: str
    kind: str
    app: str | None
    command: str
    standby: str | None
    started_at: datetime
    uptime: float
    measured_at: datetime
    state: State
    since: datetime
    why: str | None
    connection: str
    received: int
    errors: int
    dropped: int
    reconnects: int
    latency: Latency | None
    queue_usage: float | None
    gaps: int
    last_gaps: tuple[GapSummary, ...]
    channel_count: int
    channels: tuple[ChannelReport, ...]
    subscription_count: int
    subscriptions: tuple[SubscriptionReport, ...]
    dispatchers: tuple[DispatcherReport, ...]
    durable: tuple[DurableStatus, ...]
    log: LogState | None
    takes_orders: bool = False
    rate: float | None = None
    answered_in: float | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return to_jsonable(self)

    def compare(self, before: "ListenerReport | None") -> "ListenerReport":
        """Return the report with the rates since an earlier one of the same listener."""
        seconds = 0.0 if before is None else self.uptime - before.uptime
        if before is None or seconds < SHORTEST:
            return self
        counts = {one.name: one.received for one in before.channels}
        delivered = [one.delivered for one in before.dispatchers]
        names = [one.name for one in before.dispatchers]
        is_same = names == [one.name for one in self.dispatchers]
        return replace(
            self,
            rate=max(0, self.received - before.received) / seconds,
            channels=tuple(
                replace(one, rate=max(0, one.received - counts.get(one.name, 0)) / seconds)
                for one in self.channels
            ),
            dispatchers=tuple(
                replace(one, rate=max(0, one.delivered - earlier) / seconds)
                for one, earlier in zip(self.dispatchers, delivered, strict=True)
            )
            if is_same
            else self.dispatchers,
        )


@dataclass(frozen=True, slots=True)
class SilentListener:
    """A session of a listener that has not answered: it is paused, hung, or too slow.

    Attributes:
        backend_pid: The pid of its server process.
        role: The role that it has logged in as, if this role may see it.
        application: The application name of its session.
        address: The address that it has connected from; None for a socket, or if hidden.
        since: When it connected.
    """

    backend_pid: int
    role: str | None
    application: str | None
    address: str | None
    since: datetime | None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return to_jsonable(self)


@dataclass(frozen=True, slots=True)
class Survey:
    """The listeners of a database.

    Attributes:
        reports: Those that have answered.
        silent: Those that have not.
    """

    reports: tuple[ListenerReport, ...]
    silent: tuple[SilentListener, ...] = ()

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return to_jsonable(self)
