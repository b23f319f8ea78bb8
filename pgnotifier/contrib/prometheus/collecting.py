"""The collector: reads the status of notifiers when Prometheus asks."""

import os
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector as _Collector

import pgnotifier
from pgnotifier.contrib._metrics.naming import Given, make_text, name_notifiers
from pgnotifier.contrib._metrics.table import METRICS


class Collector(_Collector):
    """Collects the metrics of notifiers, for a registry of your own.

        REGISTRY.register(Collector(notifier))

    With `PROMETHEUS_MULTIPROC_DIR`, register it beside the `MultiProcessCollector`, in the process
    in which the notifier runs. In forked children of that process it has nothing to say.
    """

    def __init__(self, notifiers: Given) -> None:
        """Take one notifier, several, or several by the name that the label `notifier` shows.

        Args:
            notifiers: By default, they have the name of their database.
        """
        self._notifiers = name_notifiers(notifiers)
        self._process = os.getpid()

    def describe(self) -> list[Family]:
        """Return nothing: the registry then doesn't have to collect anything to know the names."""
        return []

    def collect(self) -> Iterator[Family]:
        """Yield the metrics as they are now."""
        # The state of the parent's notifiers, which don't run here, isn't to be shown as theirs.
        here = os.getpid() == self._process
        statuses = {
            make_text(name): one.status()
            for name, one in self._notifiers.items()
            if here or one.is_running()
        }
        info = GaugeMetricFamily(
            "pgnotifier_build_info", "1, with the version of pgnotifier.", labels=["version"]
        )
        info.add_metric([pgnotifier.__version__], 1)
        yield info
        for metric in METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.prometheus_name, metric.help, labels=["notifier", *metric.labels])
            for name, status in statuses.items():
                for labels, value in metric.read(status):
                    family.add_metric([name, *map(make_text, labels)], value)
            yield family
