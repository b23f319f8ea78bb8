"""Publish with tracing, in a process of its own, because the libraries patch Celery for good.

    python traced.py SCENARIO BROKER

Prints what the scenario returns, as JSON.
"""

import contextlib
import json
import sys
import warnings

import redis
from brokered import answers_lost, callback, own, take_messages
from captured import capture
from celery import Celery, group, signals
from conftest import Desk

from pgnotifier import Batch
from pgnotifier.contrib.celery.relay_messages import read
from pgnotifier.contrib.celery.stamping_redis import RedisStamp

URL = sys.argv[2]
warnings.simplefilter("error", UserWarning)


def start_sentry(**options):
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Nowhere(Transport):
        def capture_envelope(self, envelope):
            pass

    options = {"traces_sample_rate": 1.0, "environment": "test", **options}
    sentry_sdk.init("http://key@localhost/1", transport=Nowhere, **options)


def start_opentelemetry(sampler=None, limits=None, first=None):
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, span_limits=limits)
    if first is not None:
        provider.add_span_processor(first)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()
    return spans


def describe(spans):
    return [
        {
            "name": span.name,
            "kind": span.kind.name,
            "trace": f"{span.context.trace_id:032x}",
            "id": f"{span.context.span_id:016x}",
            "parent": span.parent and f"{span.parent.span_id:016x}",
            "attributes": {k: str(v) for k, v in span.attributes.items()},
        }
        for span in spans.get_finished_spans()
    ]


def make_desk(**conf):
    app = Celery("shop", broker=URL, set_as_current=False)
    app.conf.update(result_backend=URL, **conf)
    return Desk(app)


def take():
    return [message["headers"] for messages in take_messages(URL).values() for message in messages]


def say(desk):
    return [[row.path, row.reason] for row in desk.dispatcher.inventory().values()]


def publish(desk, count=6):
    """Publish notifications to two subscriptions and a group; return the messages' headers."""
    bindings = [desk.subscribe(callback, id=name) for name in "ab"]
    task = own(desk.app)
    both = group(task.s(), task.si())
    bindings.append(desk.subscribe(both, id="g"))
    desk.dispatch(*((binding, str(n)) for n in range(count) for binding in bindings))
    assert not desk.reported
    return take()


def sentry():
    start_sentry()
    desk = make_desk()
    return {"headers": publish(desk), "ways": say(desk)}


def sentry_without_tracing():
    start_sentry(traces_sample_rate=None)
    desk = make_desk()
    return {"headers": publish(desk), "ways": say(desk)}


def opentelemetry():
    spans = start_opentelemetry()
    desk = make_desk()
    headers = publish(desk)
    return {"headers": headers, "ways": say(desk), "spans": describe(spans)}


def both():
    start_sentry()
    start_opentelemetry()
    desk = make_desk()
    return {"headers": publish(desk), "ways": say(desk)}


def unsampled():
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    spans = start_opentelemetry(ALWAYS_OFF)
    desk = make_desk()
    headers = publish(desk)
    return {"headers": headers, "ways": say(desk), "spans": len(spans.get_finished_spans())}


def propagators():
    """Publish stamped messages with the usual propagator and with others."""
    from opentelemetry import propagate, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    class Marking(TraceContextTextMapPropagator):
        """A propagator that adds a header of its own."""

        def inject(self, carrier, context=None, setter=None):
            """Add the headers."""
            super().inject(carrier, context)
            ids = trace.get_current_span(context).get_span_context()
            carrier["x-span"] = f"{ids.span_id:016x}"

        @property
        def fields(self):
            """Return the names of the headers."""
            return {*super().fields, "x-span"}

    spans = start_opentelemetry()
    usual = propagate.get_global_textmap()
    found = []
    for propagator in (usual, TraceContextTextMapPropagator(), Marking()):
        propagate.set_global_textmap(propagator)
        spans.clear()
        desk = make_desk()
        desk.deliver(desk.subscribe(callback), *"12345")
        ids = [f"{span.context.span_id:016x}" for span in spans.get_finished_spans()]
        found.append({"headers": take(), "spans": ids, "ways": say(desk)})
    return found


def publish_five(**options):
    """Return the attributes of five spans: the instrumentation's own two come first."""
    spans = start_opentelemetry(**options)
    desk = make_desk()
    desk.deliver(desk.subscribe(callback), *"12345")
    assert say(desk) == [["stamped", None]]
    return [dict(span.attributes) for span in spans.get_finished_spans()]


def few_attributes():
    from opentelemetry.sdk.trace import SpanLimits

    return publish_five(limits=SpanLimits(max_span_attributes=2))


def short_attributes():
    from opentelemetry.sdk.trace import SpanLimits

    return publish_five(limits=SpanLimits(max_span_attribute_length=8))


def attributes_of_ones_own():
    from opentelemetry.sdk.trace import SpanProcessor

    class Marking(SpanProcessor):
        """Adds an attribute to each span."""

        def on_start(self, span, parent_context=None):
            """Add it."""
            span.set_attribute("mark", "mine")

    return publish_five(first=Marking())


def not_initialised():
    import sentry_sdk.integrations.celery  # noqa: F401

    desk = make_desk()
    return {"headers": publish(desk), "ways": say(desk)}


def come_and_go():
    """Start and stop tracing while a listener runs."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    desk = make_desk()
    binding = desk.subscribe(callback)
    found = []

    def deliver():
        desk.deliver(binding, *"12345")
        found.append([sorted(headers) for headers in take()])

    deliver()
    start_opentelemetry()
    deliver()
    start_sentry()
    deliver()
    CeleryInstrumentor().uninstrument()
    deliver()
    import sentry_sdk

    sentry_sdk.get_global_scope().set_client(None)
    deliver()
    return {"names": found, "ways": say(desk)}


def a_stranger():
    """Connect a receiver that pgnotifier doesn't know."""
    start_opentelemetry()
    calls = []
    signals.before_task_publish.connect(lambda **_: calls.append(1), weak=False)
    desk = make_desk()
    return {"headers": publish(desk), "ways": say(desk), "calls": len(calls)}


def another_shape():
    """Publish with a version of Sentry that lacks a method."""
    start_sentry()
    import sentry_sdk.tracing_utils

    del sentry_sdk.tracing_utils.PropagationContext.iter_headers
    desk = make_desk()
    binding = desk.subscribe(callback)
    desk.deliver(binding, *"1234")
    return {"ways": say(desk), "count": len(take()), "reported": len(desk.reported)}


def headers_of_ones_own():
    start_sentry()
    desk = make_desk()
    plain = desk.subscribe(callback, headers={"mine": "yes"})
    traced = desk.subscribe(callback, id="b", headers={"baggage": "mine=1"})
    desk.dispatch(*[(plain, "1"), (traced, "1")] * 4)
    return {"headers": take(), "ways": say(desk)}


def another_try():
    """Lose an answer, so that the tasks are published again."""
    start_sentry()
    start_opentelemetry()
    desk = make_desk()
    bindings = [desk.subscribe(callback, id=name) for name in "ab"]
    desk.dispatch(*((binding, "first") for binding in bindings for _ in range(2)))
    take()
    batch = Batch(desk.deliveries(*((binding, str(n)) for n in range(3) for binding in bindings)))
    with answers_lost(), contextlib.suppress(redis.ConnectionError):
        desk.dispatcher.dispatch(batch)
    assert batch.remaining == 6
    desk.dispatcher.dispatch(batch)
    return {"headers": take()}


def together():
    """Publish so many that their messages are stamped together."""
    start_sentry()
    spans = start_opentelemetry()
    desk = make_desk()
    bindings = [desk.subscribe(callback, id=name) for name in "ab"]
    desk.dispatch(*((binding, "first") for binding in bindings for _ in range(2)))
    take()
    spans.clear()
    pressed = []
    press_all = RedisStamp.press_all

    def count(stamp, target, deliveries, *more):
        pressed.append(len(deliveries))
        return press_all(stamp, target, deliveries, *more)

    RedisStamp.press_all = count
    desk.dispatch(*((binding, str(n)) for n in range(300) for binding in bindings))
    return {"headers": take(), "spans": describe(spans), "pressed": pressed}


def refused():
    """Publish a payload that the serializer refuses, together with others."""
    spans = start_opentelemetry()
    desk = make_desk()
    binding = desk.subscribe(own(desk.app).s(), serializer="msgspec")
    desk.deliver(binding, "0", "0", "0", "1" * 40, "0")
    first = [len(take()), len(spans.get_finished_spans())]
    spans.clear()
    desk.deliver(binding, "1", "1" * 40, "2")
    return {
        "first": first,
        "headers": take(),
        "spans": describe(spans),
        "reported": len(desk.reported),
    }


def captured():
    """Publish a task while an outbox is active, and no broker is there."""
    start_sentry()
    spans = start_opentelemetry()
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    import sentry_sdk

    with sentry_sdk.start_transaction(name="request") as request:
        drafts = capture(app, lambda: own(app).delay(1))
    return {
        "headers": [read(payload).open().headers for _, payload in drafts],
        "trace": request.trace_id,
        "spans": [span.name for span in spans.get_finished_spans()],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]]()))
