"""Tracing with real workers: a task belongs to the trace of its notification."""

from collections import defaultdict
from importlib.util import find_spec  # importing them takes long

import pytest

MISSING = [name for name in ("sentry_sdk", "opentelemetry") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason="needs libraries for tracing")

ALONE = ("sentry", "opentelemetry")
SOURCE = """
libraries = os.environ["LIBRARIES"].split("+")
app.conf.broker_url = os.environ.get("RABBITMQ", os.environ["BROKER"])

if "sentry" in libraries:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Nowhere(Transport):
        def capture_envelope(self, envelope):
            pass

    sentry_sdk.init("http://key@localhost/1", transport=Nowhere, traces_sample_rate=1.0)

if "opentelemetry" in libraries:
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    CeleryInstrumentor().instrument()

notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))

def traces():
    found = []
    if "sentry" in libraries:
        span = sentry_sdk.get_current_span()
        found.append((span.trace_id, bool(span.containing_transaction.parent_span_id)))
    if "opentelemetry" in libraries:
        span = trace.get_current_span()
        found.append((span.get_span_context().trace_id, span.parent is not None))
    return found

@notifier.on("ch", id="one")
def one(id, channel, payload, pid):
    origin = current_task.request.headers["pgnotifier"]
    write("traces", payload, origin["channel"], traces())

@notifier.on("ch", id="two")
def two(id, channel, payload, pid):
    write("traces", payload, current_task.request.headers["pgnotifier"]["channel"], traces())
"""


@pytest.mark.parametrize(
    ("broker_kind", "libraries"),
    [
        *(("redis", one) for one in (*ALONE, "sentry+opentelemetry")),
        # What each of them does alone is also part of what both do, below.
        *(pytest.param("rabbitmq", one, marks=[pytest.mark.gate]) for one in ALONE),
        ("rabbitmq", "sentry+opentelemetry"),
    ],
)
def test_workers_go_on_with_the_trace(preforked, request, open_shop, libraries, broker_kind):
    """All tasks of a notification run in one trace, and each notification has its own trace."""
    env = {"LIBRARIES": libraries}
    if broker_kind == "rabbitmq":
        env["RABBITMQ"] = request.getfixturevalue("rabbitmq").url
    shop = open_shop(SOURCE, start=preforked.start_traced)
    shop.worker(**env)
    shop.listener(**env)
    shop.notify(*(("ch", str(number)) for number in range(20)))
    found = defaultdict(list)
    for payload, channel, traces in shop.wait_written("traces", 40):
        assert channel == "ch"
        assert len(traces) == len(libraries.split("+"))
        assert all(has_parent for _, has_parent in traces)
        found[payload].append([trace_id for trace_id, _ in traces])
    assert [len(some) for some in found.values()] == [2] * 20
    assert all(first == second for first, second in found.values())
    for place in range(len(libraries.split("+"))):
        assert len({first[place] for first, _ in found.values()}) == 20


INSTRUMENTED = """
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from pgnotifier.contrib.opentelemetry import instrument

class Book(SpanExporter):
    def export(self, spans):
        for one in spans:
            ids, parent = one.context, one.parent
            write("spans", one.name, ids.trace_id, ids.span_id, parent and parent.span_id)

trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(Book()))
instrument(notifier)
"""


def test_from_the_sender_to_the_worker(preforked, open_shop):
    """With the notifier instrumented, the sender, the notification and its tasks are one trace."""
    shop = open_shop(SOURCE + INSTRUMENTED, start=preforked.start_traced)
    env = {"LIBRARIES": "opentelemetry"}
    shop.worker(**env)
    shop.listener(**env)
    senders = range(1, 11)
    for number in senders:
        shop.notify(("ch", f'{{"traceparent": "00-{number:032x}-{number:016x}-01"}}'))
    tasks = shop.wait_written("traces", 20)
    spans = shop.wait_written("spans", 50)
    assert sorted(trace_id for _, _, ((trace_id, _),) in tasks) == sorted([*senders] * 2)
    names = defaultdict(list)
    for name, trace_id, span_id, parent in spans:
        names[name.split("/")[0], trace_id].append((span_id, parent))
    for number in senders:
        ((consumer, parent),) = names["receive ch", number]
        assert parent == number  # the sender's
        published = names["apply_async", number]
        assert len(published) == 2
        assert {parent for _, parent in published} == {consumer}
        ran = names["run", number]
        assert {parent for _, parent in ran} == {span for span, _ in published}


IN_SENTRY = """
import pgnotifier.contrib.sentry

def note(transport, envelope):
    for item in envelope.items:
        if one := item.get_transaction_event():
            ids = one["contexts"]["trace"]
            known = ids["trace_id"], ids["span_id"], ids.get("parent_span_id")
            write("sentry", one["transaction"], *known)

Nowhere.capture_envelope = note
pgnotifier.contrib.sentry.instrument(notifier)
"""


@pytest.mark.parametrize("libraries", ["sentry", "sentry+opentelemetry"])
def test_from_the_sender_to_the_worker_in_sentry(preforked, open_shop, libraries):
    """With the notifier instrumented for Sentry, the sender and all transactions are one trace."""
    source = SOURCE + (INSTRUMENTED if "+" in libraries else "") + IN_SENTRY
    shop = open_shop(source, start=preforked.start_traced)
    env = {"LIBRARIES": libraries}
    shop.worker(**env)
    shop.listener(**env)
    senders = [f"{number:032x}" for number in range(1, 11)]
    for sender in senders:
        shop.notify(("ch", f'{{"traceparent": "00-{sender}-{sender[16:]}-01"}}'))
    tasks = shop.wait_written("traces", 20)
    assert sorted(found[0][0] for _, _, found in tasks) == sorted(senders * 2)
    made = defaultdict(list)
    for name, trace_id, span_id, parent in shop.wait_written("sentry", 30):
        made[name, trace_id].append((span_id, parent))
    for sender in senders:
        ((consumer, parent),) = made["receive ch", sender]
        assert parent == sender[16:]
        ran = {name: made[name, sender] for name in ("pgnotifier.one", "pgnotifier.two")}
        assert all([parent for _, parent in found] == [consumer] for found in ran.values()), ran
