"""Observe a notifier: by a scrape each second, or with spans of some or all notifications."""

import http.client
import socket
import threading
from collections.abc import Callable, Mapping

from names import METRICS, SENTRY_SOME, SPANS_ALL, SPANS_NONE, SPANS_SOME

from pgnotifier import Notifier

RATES = {SPANS_NONE: 0.0, SPANS_SOME: 0.01, SPANS_ALL: 1.0}


def scraped(dsn: str) -> Notifier:
    """Return a notifier with metrics that a thread of this process asks for each second."""
    from pgnotifier.contrib.prometheus import expose

    expose()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def scrape() -> None:
        wait = threading.Event()
        while not wait.wait(1.0):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            connection.close()

    notifier = Notifier(dsn, health_port=port)
    notifier.start()
    threading.Thread(target=scrape, daemon=True).start()
    return notifier


def spanned(dsn: str, rate: float) -> Notifier:
    """Return a notifier with spans, at a rate, which nobody keeps."""
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    from pgnotifier.contrib.opentelemetry import instrument

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(rate))
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return instrument(Notifier(dsn), provider)


def transacted(dsn: str) -> Notifier:
    """Return a notifier with a transaction of Sentry's for one notification in a hundred."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    from pgnotifier.contrib.sentry import instrument

    class Nowhere(Transport):
        def capture_envelope(self, envelope: object) -> None:
            pass

    sentry_sdk.init("http://key@localhost/1", transport=Nowhere, traces_sample_rate=0.01)
    return instrument(Notifier(dsn))


OBSERVED: Mapping[str, Callable[[str], Notifier]] = {
    METRICS: scraped,
    SENTRY_SOME: transacted,
    **{name: lambda dsn, rate=rate: spanned(dsn, rate) for name, rate in RATES.items()},  # type: ignore[misc]
}
"""What returns a notifier for each name."""
