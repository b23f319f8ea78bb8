"""Spans and metrics of real notifications, with the SDK's exporters in memory."""

import asyncio
import json
import threading

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio as Ratio
from opentelemetry.trace import SpanKind, StatusCode

from pgnotifier import AsyncioDispatcher, ThreadDispatcher
from pgnotifier.contrib._metrics.table import METRICS
from pgnotifier.contrib.opentelemetry import instrument, measure
from pgnotifier.durable import publish

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-{SPAN}-{flag}" for flag in ("01", "00"))


class Traced:
    """A provider with its spans, and a notifier that makes them."""

    def __init__(self, notifier, sampler=None):
        self.spans = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.notifier = instrument(notifier, self.provider)
        self.inside = []

    def note(self, id, channel, payload, pid):
        self.inside.append(trace.get_current_span().get_span_context())
        with self.provider.get_tracer("user").start_as_current_span("users own"):
            pass

    @property
    def made(self):
        """The spans that pgnotifier has made, in the order in which they ended."""
        found = self.spans.get_finished_spans()
        return [one for one in found if one.instrumentation_scope.name == "pgnotifier"]

    @property
    def own(self):
        """The spans that the callbacks have made."""
        return [one for one in self.spans.get_finished_spans() if one.name == "users own"]


@pytest.fixture
def make_traced(pgnotifier_dsn, make_notifier):
    """Return a function that makes a notifier with spans."""

    def make(sampler=None, **settings):
        return Traced(make_notifier(pgnotifier_dsn, **settings), sampler)

    return make


def test_a_callback_runs_inside_its_span(make_traced, eventually):
    """The span has the conventions' names, and is the current one in the callback."""
    traced = make_traced()
    traced.notifier.subscribe("board", "orders", traced.note)
    traced.notifier.notify("orders", {"total": 1})
    eventually(lambda: len(traced.made) == 1)
    (span,) = traced.made
    assert (span.name, span.kind, span.parent) == ("process orders", SpanKind.CONSUMER, None)
    assert dict(span.attributes) == {
        "messaging.system": "postgresql",
        "messaging.destination.name": "orders",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.subscription.name": "board",
    }
    assert [one.span_id for one in traced.inside] == [span.context.span_id]
    assert [one.parent.span_id for one in traced.own] == [span.context.span_id]


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"context": one, "new": {}}])
def test_the_trace_of_the_sender_goes_on(make_traced, eventually, wrap):
    """A `traceparent` in the payload, or in its context, is the parent and a link."""
    traced = make_traced()
    traced.notifier.subscribe(1, "orders", traced.note)
    traced.notifier.notify("orders", wrap({"traceparent": SAMPLED, "tracestate": "a=b"}))
    eventually(lambda: len(traced.made) == 1)
    (span,) = traced.made
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    (link,) = span.links
    assert f"{link.context.span_id:016x}" == SPAN
    assert span.context.trace_state["a"] == "b"


def test_a_wrong_traceparent(make_traced, eventually):
    """Anything else under that name begins a trace, as if it weren't there."""
    traced = make_traced()
    traced.notifier.subscribe(1, "orders", traced.note)
    odd = ["x", 5, None, [SAMPLED], SAMPLED.upper(), f"00-{'0' * 32}-{SPAN}-01", SAMPLED * 99]
    for one in odd:
        traced.notifier.notify("orders", {"traceparent": one})
    eventually(lambda: len(traced.made) == len(odd))
    assert {span.parent for span in traced.made} == {None}
    assert len({span.context.trace_id for span in traced.made}) == len(odd)


def test_several_subscriptions_share_a_trace(make_traced, eventually):
    """A notification has one consumer's span; its other deliveries are below it."""
    traced = make_traced()
    threads = ThreadDispatcher()
    for number, dispatcher in enumerate([None, None, threads]):
        traced.notifier.subscribe(number, "orders", traced.note, dispatcher=dispatcher)
    for _ in range(5):
        traced.notifier.notify("orders", {"same": True})
    eventually(lambda: len(traced.made) == 15)
    roots = {one.context.trace_id: one for one in traced.made if one.kind is SpanKind.CONSUMER}
    assert len(roots) == 5
    others = [one for one in traced.made if one.kind is SpanKind.INTERNAL]
    assert len(others) == 10
    for one in others:
        assert one.parent.span_id == roots[one.context.trace_id].context.span_id


def test_equal_notifications_have_their_own_traces(make_traced, db, eventually):
    """Even those that are sent at once, with the same content."""
    traced = make_traced()
    for number in range(2):
        traced.notifier.subscribe(number, "orders", traced.note)
    with psycopg.connect(db.dsn) as connection:
        for number in range(20):
            connection.execute("NOTIFY orders, 'same'") if number % 2 else connection.execute(
                "NOTIFY orders, 'other'"
            )
    traced.notifier.notify("orders", "same")
    eventually(lambda: len(traced.made) == 6)  # PostgreSQL sends equal ones of a commit once
    assert len({one.context.trace_id for one in traced.made}) == 3


def test_a_failure(make_traced, eventually):
    """The span of a callback that raises has the error, which is reported as always."""
    traced = make_traced()
    traced.notifier.subscribe("bad", "orders", lambda *_: 1 / 0)
    traced.notifier.notify("orders")
    eventually(lambda: len(traced.made) == 1)
    (span,) = traced.made
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "ZeroDivisionError"
    assert [event.name for event in span.events] == ["exception"]
    assert traced.notifier.status().errors == 1


def test_coroutines(make_traced, eventually):
    """A coroutine runs inside its span from its beginning to its end, beside others."""
    traced = make_traced(dispatcher=AsyncioDispatcher())

    async def note(id, channel, payload, pid):
        before = trace.get_current_span().get_span_context()
        await asyncio.sleep(0.01)
        assert trace.get_current_span().get_span_context() == before
        traced.inside.append(before)

    traced.notifier.subscribe("a", "orders", note)
    traced.notifier.subscribe("b", "paid", note)

    async def main():
        async with traced.notifier:
            for number in range(5):
                await asyncio.to_thread(traced.notifier.notify, "orders", number)
                await asyncio.to_thread(traced.notifier.notify, "paid", number)
            for _ in range(1000):
                if len(traced.made) == 10:
                    return
                await asyncio.sleep(0.02)

    asyncio.run(main())
    assert {one.span_id for one in traced.inside} == {one.context.span_id for one in traced.made}
    assert len(traced.inside) == 10
    assert traced.notifier.status().errors == 0


class Odd(Sampler):
    """A sampler that nobody knows."""

    def should_sample(self, *args, **kwargs):
        return ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self):
        return "Odd"


@pytest.mark.parametrize(
    ("sampler", "payload", "recorded"),
    [
        (ALWAYS_OFF, {}, False),
        (Ratio(0.0), {}, False),
        (Ratio(1e-9), {}, False),
        (Ratio(1 - 1e-9), {}, True),
        (Ratio(1.0), {"traceparent": UNSAMPLED}, False),
        (Ratio(0.0), {"traceparent": SAMPLED}, True),
        (ALWAYS_ON, {"traceparent": UNSAMPLED}, True),
        (ALWAYS_OFF, {"traceparent": SAMPLED}, False),
        (Odd(), {}, True),
        (ParentBased(Odd()), {"traceparent": UNSAMPLED}, False),
    ],
)
def test_sampling(make_traced, eventually, sampler, payload, recorded):
    """A notification is recorded as the sampler has it, and the callback's own spans with it."""
    traced = make_traced(sampler)
    for number in range(2):
        traced.notifier.subscribe(number, "orders", traced.note)
    traced.notifier.notify("orders", payload)
    eventually(lambda: len(traced.inside) == 2)
    eventually(lambda: traced.notifier.status().delivered_counts == {"InlineDispatcher": 2})
    assert len(traced.made) == 2 * recorded
    assert {one.trace_flags.sampled for one in traced.inside} == {recorded}
    if sampler is not ALWAYS_ON:
        assert len(traced.own) == 2 * recorded


def test_a_share(make_traced, eventually):
    """About as many are recorded as the sampler says, each with all of its deliveries."""
    traced = make_traced(Ratio(0.25))
    for number in range(2):
        traced.notifier.subscribe(number, "orders", traced.note)
    with psycopg.connect(traced.notifier.parameters.conninfo) as connection:
        connection.execute("SELECT pg_notify('orders', n::text) FROM generate_series(1, 1000) n")
    eventually(lambda: len(traced.inside) == 2000)
    eventually(lambda: len(traced.made) % 2 == 0)
    roots = [one for one in traced.made if one.kind is SpanKind.CONSUMER]
    assert len(traced.made) == 2 * len(roots) == len(traced.own)
    assert 150 < len(roots) < 350


def test_without_a_provider(pgnotifier_dsn, make_notifier, eventually):
    """Until a provider is configured, nothing is traced, and dispatchers work as without."""
    dispatcher = ThreadDispatcher()
    notifier = instrument(make_notifier(pgnotifier_dsn, dispatcher=dispatcher))
    came = threading.Event()
    notifier.subscribe(1, "orders", lambda *_: came.set(), autorun=True)
    notifier.notify("orders")
    assert came.wait(60)
    assert dispatcher.tracing is None


def test_batches_and_entries(log, make_notifier, eventually):
    """A batch is linked to all of its senders; an entry of the log has its number."""
    traced = Traced(make_notifier(log.dsn))
    traced.notifier.subscribe("all", "orders", traced.note, batch=(3, 30.0))
    traced.notifier.subscribe("invoice", "paid", traced.note, durable=True)
    for number in range(3):
        parent = f"00-{TRACE}-{number + 1:016x}-01"
        traced.notifier.notify("orders", {"traceparent": parent, "n": number})
    with psycopg.connect(log.dsn) as connection:
        entry = publish(connection, "paid", {"traceparent": SAMPLED})
    eventually(lambda: len(traced.made) == 2)
    spans = {one.attributes["messaging.destination.name"]: one for one in traced.made}
    assert [link.context.span_id for link in spans["orders"].links] == [1, 2, 3]
    assert spans["orders"].parent is None
    assert spans["orders"].attributes["messaging.batch.message_count"] == 3
    assert spans["paid"].attributes["messaging.message.id"] == str(entry)
    assert f"{spans['paid'].context.trace_id:032x}" == TRACE


def test_metrics(log, make_notifier, eventually):
    """The instruments have the numbers of the status, with the names of the table."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    notifier = make_notifier(log.dsn)
    measure({"shop": notifier}, provider)
    notifier.subscribe("board", "orders", lambda *_: None)
    notifier.subscribe("invoice", "paid", lambda *_: None, durable=True)
    notifier.notify("orders", 1)
    eventually(lambda: notifier.status().delivered_counts == {"InlineDispatcher": 1})
    eventually(lambda: notifier.status().durable)

    def read():
        (resource,) = reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        return {one.name: one for one in scope.metrics}

    eventually(lambda: read()["pgnotifier.received"].data.data_points[0].value == 1)
    found = read()
    names = {f"pgnotifier.{one.name}" for one in METRICS if one.name not in ("log_quota",)}
    assert names - {*found} <= {"pgnotifier.log_size"}  # which isn't known at once
    assert found["pgnotifier.gap_duration"].unit == "s"
    (point,) = found["pgnotifier.lag"].data.data_points
    assert point.attributes == {"notifier": "shop", "subscription": "invoice", "channel": "paid"}
    (point,) = found["pgnotifier.publish_duration"].data.data_points
    assert (point.count, dict(point.attributes)) == (1, {"kind": "notify"})
    json.dumps(found["pgnotifier.state"].to_json())
    provider.shutdown()
