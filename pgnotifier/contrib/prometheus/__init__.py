"""Prometheus: `/metrics` beside the probes, or a collector for a registry of your own.

    from pgnotifier.contrib.prometheus import expose

    expose()  # on the health port of each notifier and command of this process

Everything is read from `Notifier.status()` when Prometheus asks, so that notifications cost
nothing more. docs/monitoring.md lists the metrics.
"""

from pgnotifier.contrib import naming_extra

with naming_extra("prometheus"):
    import prometheus_client as _prometheus_client  # noqa: F401

from pgnotifier.contrib.prometheus.collecting import Collector
from pgnotifier.contrib.prometheus.exposing import expose
from pgnotifier.contrib.prometheus.publishing import observe_publishing

__all__ = ["Collector", "expose", "observe_publishing"]
