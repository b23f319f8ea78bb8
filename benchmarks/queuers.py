"""Run a listener that enqueues to several queues, with tracing, or with kombu's producer."""

import argparse
import os
import time
from typing import Any

from celery import Celery
from children import end_with_parent, finish, write_message
from names import OPENTELEMETRY, SENTRY
from redis import Redis
from rq import Queue
from sending import name_channels
from work import work

from pgnotifier import Dispatcher, Notifier
from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.contrib.rq import RQDispatcher

BROKER = os.environ["BENCH_BROKER"]


def make_dispatcher(kind: str) -> Dispatcher:
    if kind == "rq":
        return RQDispatcher(Queue(connection=Redis.from_url(BROKER)))
    return CeleryDispatcher(Celery("bench", broker=BROKER))


def trace_with_sentry() -> None:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Nowhere(Transport):
        """Sends nothing."""

        def capture_envelope(self, envelope: object) -> None:
            """Drop it."""

    sentry_sdk.init("http://key@localhost/1", traces_sample_rate=1.0, transport=Nowhere)


def trace_with_opentelemetry() -> None:
    from collections.abc import Sequence

    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        """Sends nothing."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
            """Drop them."""
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument()


def publish_with_kombu() -> None:
    """Publish to RabbitMQ with kombu's producer, and with the same batched confirms."""
    from pgnotifier.contrib.celery import publisher
    from pgnotifier.contrib.celery.carriers_amqp import AmqpCarrier
    from pgnotifier.contrib.celery.stamping_kombu import KombuStamp

    class Carrier(AmqpCarrier):
        """Publishes one by one, and awaits the confirms for many."""

        def make_stamp(self, like: Any, target: Any) -> Any:
            """Make a stamp of what kombu's producer is called with."""
            return KombuStamp(like, target)

        def add(self, message: Any, task_id: str | None = None) -> None:  # noqa: ARG002
            """Publish a message."""
            settings = {
                name: value
                for name, value in message.settings.items()
                if name not in ("declare", "retry", "retry_policy")
            }
            self.producer.publish(message.body, **settings)
            self._seen.clear()

    patched: Any = publisher
    patched.AmqpCarrier = Carrier


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["celery", "rq"])
    parser.add_argument("queues", type=int, help="one for each channel")
    parser.add_argument("count", type=int, help="of notifications, after which it ends")
    parser.add_argument("--tracing", choices=[SENTRY, OPENTELEMETRY])
    parser.add_argument("--kombu", action="store_true", help="have kombu's producer publish")
    given = parser.parse_args()
    end_with_parent()
    if given.tracing == SENTRY:
        trace_with_sentry()
    if given.tracing == OPENTELEMETRY:
        trace_with_opentelemetry()
    if given.kombu:
        publish_with_kombu()
    dispatcher = make_dispatcher(given.kind)
    with Notifier(os.environ["BENCH_DSN"], dispatcher=dispatcher) as notifier:
        for channel in name_channels(given.queues):
            notifier.subscribe(f"to-{channel}", channel, work, queue=channel)
        notifier.start()
        write_message("ready")
        began = time.process_time()
        while sum(one.delivered for one in notifier.status().dispatchers) < given.count:
            time.sleep(0.02)
        write_message({"cpu": time.process_time() - began})
        finish()


if __name__ == "__main__":
    main()
