"""The page `/metrics` of the health port."""

import os
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector as _Collector

from pgnotifier._health.health_server import pages
from pgnotifier._health.http_server import Answer
from pgnotifier.contrib.prometheus.collecting import Collector
from pgnotifier.contrib.prometheus.publishing import observe_publishing
from pgnotifier.errors import ConfigurationError

PATH = "/metrics"
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the directory in which processes write their metrics.

https://prometheus.github.io/client_python/multiprocess/
"""

_MultiProcess: Any = MultiProcessCollector  # which has no types


def expose() -> None:
    """Answer `/metrics` on each health port of this process.

    It shows the metrics of the notifiers that the port answers probes for, and all of
    prometheus_client's own registry: the process's, and yours. With `PROMETHEUS_MULTIPROC_DIR` it
    shows what all processes have written there, instead of that registry.

    The option `--metrics` of the commands calls this.

    Raises:
        ConfigurationError: That directory doesn't exist.
    """
    directory = os.environ.get(MULTIPROCESS)
    if directory is not None and not Path(directory).is_dir():
        raise ConfigurationError(
            f"{MULTIPROCESS} names {directory!r}, which isn't a directory; make it, empty, before "
            "the first process starts"
        )
    observe_publishing()
    pages[PATH] = make_page


def make_page(notifiers: Sequence[Any], /) -> Answer:
    """Return the page about some notifiers."""
    registry = CollectorRegistry()
    registry.register(_Page(notifiers))
    return Answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)


class _Page(_Collector):
    """Collects what the page shows."""

    def __init__(self, notifiers: Sequence[Any]) -> None:
        self._notifiers = notifiers

    def describe(self) -> list[Family]:
        """Return nothing, so that nothing is collected when it is registered."""
        return []

    def collect(self) -> Iterator[Family]:
        """Yield the metrics of the notifiers, then those of the process or of all processes."""
        ours = {family.name: family for family in Collector(self._notifiers).collect()}
        yield from ours.values()
        others = REGISTRY.collect()
        if MULTIPROCESS in os.environ:
            others = _MultiProcess(CollectorRegistry()).collect()
        # Prometheus refuses a page with a metric twice: there may be a `Collector` in the registry.
        yield from (family for family in others if family.name not in ours)
