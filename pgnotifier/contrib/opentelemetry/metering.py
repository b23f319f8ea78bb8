"""Metrics by OpenTelemetry: instruments that read the status of notifiers when they are asked."""

from collections.abc import Callable, Iterable
from time import monotonic

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

import pgnotifier
from pgnotifier._runtime.timing import Kind, observe
from pgnotifier.contrib._metrics.naming import Given, make_text, name_notifiers
from pgnotifier.contrib._metrics.table import (
    BUCKETS,
    METRICS,
    PUBLISH_HELP,
    PUBLISH_LABELS,
    PUBLISH_NAME,
    Metric,
)
from pgnotifier.notifier import Notifier
from pgnotifier.status import Status

MOMENT = 0.2
"""Seconds for which a status is used again."""
UNITS = {"": "1", "seconds": "s", "bytes": "By", "ratio": "1"}


def measure(notifiers: Given, meter_provider: metrics.MeterProvider | None = None) -> None:
    """Have the metrics of notifiers exported, and the duration of this process's publications.

    The names are those of docs/monitoring.md, as OpenTelemetry writes them: `pgnotifier.received`
    for `pgnotifier_received_total`.

    Args:
        notifiers: One notifier, several, or several by the name in the attribute `notifier`.
        meter_provider: Makes the meter. Default: the global one.
    """
    meter = metrics.get_meter("pgnotifier", pgnotifier.__version__, meter_provider)
    named = {make_text(name): _Latest(one) for name, one in name_notifiers(notifiers).items()}
    for metric in METRICS:
        make = (
            meter.create_observable_counter
            if metric.kind == "counter"
            else meter.create_observable_gauge
        )
        make(f"pgnotifier.{metric.name}", [_reader(metric, named)], UNITS[metric.unit], metric.help)
    histogram = _make_histogram(meter)
    (label,) = PUBLISH_LABELS

    def record(kind: Kind, seconds: float) -> None:
        histogram.record(seconds, {label: kind})

    observe(record)


class _Latest:
    """The status of a notifier, once for all metrics that are read at the same time."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._status: Status | None = None
        self._until = 0.0

    def status(self) -> Status:
        """Return the status as it was a moment ago at most."""
        if self._status is None or monotonic() > self._until:
            self._status = self._notifier.status()
            self._until = monotonic() + MOMENT
        return self._status


def _make_histogram(meter: metrics.Meter) -> metrics.Histogram:
    name = f"pgnotifier.{PUBLISH_NAME}"
    try:
        return meter.create_histogram(
            name, "s", PUBLISH_HELP, explicit_bucket_boundaries_advisory=BUCKETS
        )
    except TypeError:  # an older version, in which a view has to set them
        return meter.create_histogram(name, "s", PUBLISH_HELP)


def _reader(
    metric: Metric, named: dict[str, _Latest]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        for name, latest in named.items():
            for values, number in metric.read(latest.status()):
                labels = zip(metric.labels, map(make_text, values), strict=True)
                yield Observation(number, {"notifier": name, **dict(labels)})

    return read
