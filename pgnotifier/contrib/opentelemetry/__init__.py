"""OpenTelemetry: a span for each notification, and metrics.

    from pgnotifier.contrib.opentelemetry import instrument

    notifier = instrument(Notifier("postgresql://localhost/shop"))

A callback in this process runs inside its span. Tasks that are enqueued with Celery belong to the
trace, if Celery is instrumented by `CeleryInstrumentor().instrument()`. If a payload carries the
`traceparent` of the transaction that has notified, the span continues that trace.
docs/monitoring.md says more.
"""

from pgnotifier.contrib import naming_extra

with naming_extra("opentelemetry"):
    import opentelemetry as _opentelemetry  # noqa: F401

from pgnotifier.contrib.opentelemetry.instrumenting import instrument
from pgnotifier.contrib.opentelemetry.metering import measure

__all__ = ["instrument", "measure"]
