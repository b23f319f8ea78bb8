"""Code that measures and traces notifiers."""

from prometheus_client import CollectorRegistry

from pgnotifier import Notifier
from pgnotifier.contrib import sentry
from pgnotifier.contrib.opentelemetry import instrument, measure
from pgnotifier.contrib.prometheus import Collector, expose, observe_publishing

notifier: Notifier = instrument(Notifier("dbname=shop", health_port=8080))
notifier = sentry.instrument(notifier)
measure(notifier)
measure({"shop": notifier})

registry = CollectorRegistry()
registry.register(Collector(notifier))
registry.register(Collector({"shop": notifier}))
registry.register(Collector([notifier]))
observe_publishing(registry)
expose()
