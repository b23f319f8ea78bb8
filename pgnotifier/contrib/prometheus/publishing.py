"""The histogram of publications."""

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from pgnotifier._runtime.timing import observe
from pgnotifier.contrib._metrics.table import BUCKETS, PUBLISH_HELP, PUBLISH_LABELS, PUBLISH_NAME


@cache  # once for a registry
def observe_publishing(registry: CollectorRegistry = REGISTRY) -> None:
    """Measure how long publications of this process take; `expose()` does this as well.

    For processes that publish and don't listen: web servers, and workers. Their own endpoint then
    shows the histogram, with `PROMETHEUS_MULTIPROC_DIR` that of all processes.

    Args:
        registry: Where the histogram is registered. Default: prometheus_client's own.
    """
    name = f"pgnotifier_{PUBLISH_NAME}_seconds"
    histogram = Histogram(name, PUBLISH_HELP, PUBLISH_LABELS, buckets=BUCKETS, registry=registry)
    children = {kind: histogram.labels(kind) for kind in ("notify", "durable")}
    observe(lambda kind, seconds: children[kind].observe(seconds))
