"""The metrics: their names, units and meanings, and where they are in a notifier's status."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pgnotifier.status import DispatcherStatus, DurableStatus, Latency, State, Status

Samples = Iterable[tuple[tuple[str, ...], float]]
"""The values of the labels, and the number."""
Unit = Literal["", "seconds", "bytes", "ratio"]

MAX_CHANNELS = 1_000
"""How many channels may have a series of their own. With more there is only the total."""
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the histogram of publications, in seconds."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a notifier.

    Attributes:
        name: Its name, without prefix and unit.
        kind: Whether it only grows.
        help: What it is, in one sentence.
        read: Returns its samples.
        unit: What it is measured in; a number of things by default.
        labels: The names of its labels, besides `notifier`.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Callable[[Status], Samples]
    unit: Unit = ""
    labels: tuple[str, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Its name by Prometheus' conventions: https://prometheus.io/docs/practices/naming/."""
        total = "total" if self.kind == "counter" else ""
        return "_".join(filter(None, ("pgnotifier", self.name, self.unit, total)))


def _one(read: Callable[[Status], float | None]) -> Callable[[Status], Samples]:
    """Return a function that reads one number, or none if it isn't known."""

    def samples(status: Status) -> Samples:
        found = read(status)
        return [] if found is None else [((), float(found))]

    return samples


def _latency(read: Callable[[Latency], float]) -> Callable[[Status], float | None]:
    return lambda status: None if status.latency is None else read(status.latency)


def _states(status: Status) -> Samples:
    return [((state,), float(state == status.state)) for state in get_args(State)]


def _channels(status: Status) -> Samples:
    counts = status.channel_counts
    return [] if len(counts) > MAX_CHANNELS else [((name,), n) for name, n in counts.items()]


def _counts(read: Callable[[Status], Mapping[str, int]]) -> Callable[[Status], Samples]:
    return lambda status: [((name,), number) for name, number in read(status).items()]


def _dispatchers(read: Callable[[DispatcherStatus], float]) -> Callable[[Status], Samples]:
    """Return a function that adds up what dispatchers of the same class say."""

    def samples(status: Status) -> Samples:
        found: dict[tuple[str, ...], float] = {}
        for one in status.dispatchers:
            found[(one.name,)] = found.get((one.name,), 0) + read(one)
        return found.items()

    return samples


def _durable(read: Callable[[DurableStatus], float]) -> Callable[[Status], Samples]:
    return lambda status: [((one.id, one.channel), read(one)) for one in status.durable]


_DISPATCHER = ("dispatcher",)
_SUBSCRIPTION = ("subscription", "channel")

METRICS: tuple[Metric, ...] = (
    Metric(
        "state", "gauge", "1 for the state that the notifier is in, 0 for the others.",
        _states, labels=("state",),
    ),
    Metric(
        "state_start_time", "gauge", "When the state began, in seconds since 1970.",
        _one(lambda status: status.since.timestamp()), "seconds",
    ),
    Metric(
        "channels", "gauge", "Channels that are registered.", _one(lambda status: status.channels)
    ),
    Metric(
        "subscriptions", "gauge", "Subscriptions that are registered.",
        _one(lambda status: status.subscriptions),
    ),
    Metric(
        "received", "counter", "Notifications that were read from PostgreSQL.",
        _one(lambda status: status.received),
    ),
    Metric(
        "channel_received", "counter",
        "Notifications that were read on each channel; none with more than 1,000 channels.",
        _channels, labels=("channel",),
    ),
    Metric(
        "delivered", "counter",
        "Deliveries that are done: callbacks have returned or failed, queues have taken them.",
        _counts(lambda status: status.delivered_counts), labels=_DISPATCHER,
    ),
    Metric(
        "failed", "counter",
        "Deliveries that have failed: a callback has raised, or a queue has refused them.",
        _one(lambda status: status.errors),
    ),
    Metric(
        "dropped", "counter", "Notifications that an overflow policy has dropped.",
        _counts(lambda status: status.dropped_counts), labels=_DISPATCHER,
    ),
    Metric(
        "gaps", "counter", "Gaps: times in which notifications may have been missed.",
        _one(lambda status: status.gaps),
    ),
    Metric(
        "gap_duration", "counter", "How long the gaps were together.",
        _one(lambda status: status.gap_seconds), "seconds",
    ),
    Metric(
        "reconnects", "counter", "How often the connection was replaced.",
        _one(lambda status: status.reconnects),
    ),
    Metric(
        "round_trips", "counter", "Round trips to the server.",
        _one(_latency(lambda one: one.count)),
    ),
    Metric(
        "round_trip_duration", "counter", "How long the round trips took together.",
        _one(_latency(lambda one: one.mean * one.count)),
        "seconds",
    ),
    Metric(
        "last_round_trip_duration", "gauge", "How long the latest round trip took.",
        _one(_latency(lambda one: one.last)), "seconds",
    ),
    Metric(
        "queue_usage", "gauge", "How full PostgreSQL's queue of notifications is, from 0 to 1.",
        _one(lambda status: status.queue_usage), "ratio",
    ),
    Metric(
        "buffer_entries", "gauge", "Notifications and deliveries that wait for a dispatcher.",
        _dispatchers(lambda one: one.waiting), labels=_DISPATCHER,
    ),
    Metric(
        "buffer_size", "gauge", "The size of the payloads in the buffer of a dispatcher.",
        _dispatchers(lambda one: one.waiting_bytes), "bytes", _DISPATCHER,
    ),
    Metric(
        "buffers_full", "gauge", "Buffers that are full, so that nothing is read.",
        _dispatchers(lambda one: one.full), labels=_DISPATCHER,
    ),
    Metric(
        "dispatchers_retrying", "gauge",
        "Dispatchers that can't deliver, as their queue is down, and try again.",
        _dispatchers(lambda one: one.retrying), labels=_DISPATCHER,
    ),
    Metric(
        "lag_entries", "gauge",
        "About how many entries a durable subscription is behind; an upper bound.",
        _durable(lambda one: one.lag), labels=_SUBSCRIPTION,
    ),
    Metric(
        "lag", "gauge", "How long the oldest entry has waited for a durable subscription.",
        _durable(lambda one: one.lag_seconds), "seconds", _SUBSCRIPTION,
    ),
    Metric(
        "failing_entries", "gauge",
        "Entries that have failed for a durable subscription, and will be tried again.",
        _durable(lambda one: one.failed), labels=_SUBSCRIPTION,
    ),
    Metric(
        "dead_letters", "gauge", "Entries that have failed for a durable subscription for good.",
        _durable(lambda one: one.dead), labels=_SUBSCRIPTION,
    ),
    Metric(
        "held_up", "gauge", "1 while an entry that fails holds up a durable subscription.",
        _durable(lambda one: one.held_since is not None), labels=_SUBSCRIPTION,
    ),
    Metric(
        "log_unreadable", "gauge", "1 while the durable log can't be read for a subscription.",
        _durable(lambda one: one.since is not None), labels=_SUBSCRIPTION,
    ),
    Metric(
        "log_size", "gauge", "The size of the durable log.",
        _one(lambda status: None if status.log is None else status.log.size), "bytes",
    ),
    Metric(
        "log_quota", "gauge", "How large the durable log may become, if that is limited.",
        _one(lambda status: None if status.log is None else status.log.quota), "bytes",
    ),
)  # fmt: skip
"""What is read from the status of a notifier."""

PUBLISH_NAME = "publish_duration"
PUBLISH_HELP = "How long publications took, by Notifier.notify or into the durable log."
PUBLISH_LABELS = ("kind",)
