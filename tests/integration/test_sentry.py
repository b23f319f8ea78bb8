"""Sentry's transactions of real notifications, kept by a transport in memory."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from typing import ClassVar

import pytest
import sentry_sdk
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from pgnotifier import AsyncioDispatcher, Dispatcher, InlineDispatcher, ThreadDispatcher
from pgnotifier.contrib.sentry import instrument

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CHANNEL = "messaging.destination.name"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-{SPAN}-{flag}" for flag in ("01", "00"))


class Memory(Transport):
    """Keeps what would be sent."""

    kept: ClassVar[list] = []

    def capture_envelope(self, envelope):
        """Keep transactions, with what is said of their sampling, and errors."""
        for item in envelope.items:
            if one := item.get_event() or item.get_transaction_event():
                self.kept.append({**one, "sampling": envelope.headers.get("trace")})


@pytest.fixture
def init():
    """Return a function that initialises Sentry and returns the list of what it sends."""

    def init(**options):
        Memory.kept = []
        sentry_sdk.init(
            "http://key@localhost/1",
            transport=Memory,
            default_integrations=False,
            integrations=[LoggingIntegration(), DedupeIntegration()],
            **{"traces_sample_rate": 1.0, **options},
        )
        return Memory.kept

    yield init
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def transactions(kept):
    """Return the transactions of what was sent."""
    return [one for one in kept if one.get("type") == "transaction"]


def ids(transaction):
    """Return the ids of a transaction: trace, span, parent."""
    trace = transaction["contexts"]["trace"]
    return trace["trace_id"], trace["span_id"], trace.get("parent_span_id")


@pytest.fixture(params=[InlineDispatcher, ThreadDispatcher])
def notifier(request, pgnotifier_dsn, make_notifier):
    """Return an instrumented notifier."""
    return instrument(make_notifier(pgnotifier_dsn, dispatcher=request.param()))


def test_a_callback_runs_inside_its_transaction(init, notifier, eventually):
    """The transaction is the current one in the callback, and says what was delivered."""
    kept = init()
    inside = []

    def note(*_):
        inside.append(sentry_sdk.get_current_span())
        with sentry_sdk.start_span(op="own", name="own"):
            pass

    notifier.subscribe("invoice", "orders", note, autorun=True)
    for number in range(3):
        notifier.notify("orders", {"id": number})
    eventually(lambda: len(transactions(kept)) == 3)
    assert {ids(one)[1] for one in transactions(kept)} == {one.span_id for one in inside}
    assert len({ids(one)[0] for one in transactions(kept)}) == 3
    first = transactions(kept)[0]
    assert (first["transaction"], first["spans"][0]["op"]) == ("process orders", "own")
    trace = first["contexts"]["trace"]
    assert (trace["op"], trace["origin"]) == ("queue.process", "auto.queue.pgnotifier")
    assert trace["data"][CHANNEL] == "orders"
    assert trace["data"]["messaging.destination.subscription.name"] == "invoice"


@pytest.mark.parametrize(
    ("payload", "recorded"),
    [
        ({"traceparent": SAMPLED}, True),
        ({"context": {"traceparent": SAMPLED}}, True),
        ({"sentry-trace": f"{TRACE}-{SPAN}-1"}, True),
        ({"traceparent": UNSAMPLED}, False),
        ({"sentry-trace": f"{TRACE}-{SPAN}-0", "baggage": "sentry-trace_id=" + TRACE}, False),
    ],
)
def test_the_trace_of_the_sender_goes_on(init, notifier, eventually, payload, recorded):
    """All subscriptions to a notification continue its sender's trace, and its decision."""
    kept = init(traces_sample_rate=0.0 if recorded else 1.0)
    inside = []
    for number in range(2):
        notifier.subscribe(
            number, "orders", lambda *_: inside.append(sentry_sdk.get_current_span())
        )
    notifier.start()
    notifier.notify("orders", payload)
    eventually(lambda: len(inside) == 2)
    eventually(lambda: len(transactions(kept)) == 2 * recorded)
    assert {one.trace_id for one in inside} == {TRACE}
    assert {one.sampled for one in inside} == {recorded}
    if recorded:
        first = next(one for one in transactions(kept) if ids(one)[2] == SPAN)
        assert {ids(one)[2] for one in transactions(kept)} == {SPAN, ids(first)[1]}


@pytest.mark.parametrize("wrong", [7, "", "00-zz", f"00-{TRACE}", {"a": 1}, None])
def test_wrong_ids(init, notifier, eventually, wrong):
    """What isn't a trace begins a new one."""
    kept = init()
    notifier.subscribe("invoice", "orders", print, autorun=True)
    notifier.notify("orders", {"traceparent": wrong, "sentry-trace": wrong, "baggage": wrong})
    eventually(lambda: len(transactions(kept)) == 1)
    assert ids(transactions(kept)[0])[2] is None


def test_a_failure(init, notifier, eventually):
    """What a callback raises is one issue, which belongs to the failed transaction."""
    kept = init()

    def fail(*_):
        raise ValueError("no such order")

    notifier.subscribe("invoice", "orders", fail, autorun=True)
    notifier.notify("orders")
    eventually(lambda: transactions(kept) and notifier.status().errors == 1)
    notifier.stop()
    (transaction,) = transactions(kept)
    assert transaction["contexts"]["trace"]["status"] == "internal_error"
    (error,) = [one for one in kept if one.get("exception")]
    assert error["exception"]["values"][-1]["value"] == "no such order"
    assert error["contexts"]["trace"]["trace_id"] == ids(transaction)[0]


def test_a_share(init, notifier, eventually):
    """About as many are recorded as the rate says, each with all of its deliveries."""
    kept = init(traces_sample_rate=0.25)
    inside = []
    for number in range(2):
        notifier.subscribe(number, "orders", lambda *_: inside.append(current()))
    notifier.start()
    for number in range(400):
        notifier.notify("orders", number)
    eventually(lambda: len(inside) == 800)
    recorded = [one for one in inside if one is not None]
    eventually(lambda: len(transactions(kept)) == len(recorded))
    traces = Counter(ids(one)[0] for one in transactions(kept))
    assert {*traces.values()} == {2}
    assert 50 < len(traces) < 150
    sampling = transactions(kept)[0]["sampling"]
    assert sampling["sample_rate"] == "0.25"
    assert float(sampling["sample_rand"]) < 0.25


def current():
    """Return the span of the callback, or None."""
    return sentry_sdk.get_current_span()


def test_a_sampler(init, notifier, eventually):
    """A sampler of the user's decides for each notification, and knows what it is."""
    kept = init(traces_sampler=lambda context: context["pgnotifier"][CHANNEL] == "orders")
    came = []
    for channel in ("orders", "images"):
        notifier.subscribe(channel, channel, lambda *_: came.append(current().sampled))
    notifier.start()
    for channel in ("orders", "images"):
        notifier.notify(channel)
    eventually(lambda: len(came) == 2)
    eventually(lambda: len(transactions(kept)) == 1)
    assert sorted(came) == [False, True]


def test_coroutines(init, pgnotifier_dsn, make_notifier):
    """Each coroutine has a transaction of its own, whatever runs meanwhile."""
    kept = init()
    notifier = instrument(make_notifier(pgnotifier_dsn, dispatcher=AsyncioDispatcher()))
    inside = []

    async def note(*_):
        before = sentry_sdk.get_current_span()
        await asyncio.sleep(0.01)
        assert sentry_sdk.get_current_span() is before
        inside.append(before.span_id)

    for number in range(2):
        notifier.subscribe(number, f"ch{number}", note)

    async def main():
        async with notifier:
            for number in range(10):
                await asyncio.to_thread(notifier.notify, f"ch{number % 2}", number)
            async with asyncio.timeout(60):
                while len(transactions(kept)) < 10:
                    await asyncio.sleep(0.02)

    asyncio.run(main())
    assert {ids(one)[1] for one in transactions(kept)} == {*inside}
    assert len({ids(one)[0] for one in transactions(kept)}) == 10


class Queue(Dispatcher):
    """Notes the headers of what it is given; it is down the first time."""

    def __init__(self):
        self.took = []
        self.is_down = True

    def bind(self, subscription):
        """Take any callback."""
        return subscription.fn

    def dispatch(self, batch):
        """Note the headers, or fail."""
        if self.is_down:
            self.is_down = False
            raise OSError("the queue is down")
        for delivery in batch.rest():
            self.took.append(self.tracing.find(delivery, dict))
            batch.done(1)


def test_handed_to_a_queue_without_a_record(init, pgnotifier_dsn, make_notifier, eventually):
    """What is enqueued of a notification that isn't recorded says so."""
    kept = init(traces_sample_rate=0.0)
    queue = Queue()
    queue.is_down = False
    notifier = instrument(make_notifier(pgnotifier_dsn, dispatcher=queue))
    notifier.subscribe("invoice", "orders", print)
    notifier.start()
    notifier.notify("orders")
    eventually(lambda: len(queue.took) == 1)
    assert re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{16}-0", queue.took[0]["sentry-trace"])
    assert transactions(kept) == []


def test_handed_to_a_queue(init, pgnotifier_dsn, make_notifier, eventually):
    """One transaction lasts until the queue has a notification; what is enqueued continues it."""
    kept = init()
    queue = Queue()
    notifier = instrument(make_notifier(pgnotifier_dsn, dispatcher=queue))
    for number in range(2):
        notifier.subscribe(number, "orders", print)
    notifier.start()
    notifier.notify("orders")
    eventually(lambda: transactions(kept))
    (done,) = transactions(kept)
    trace = done["contexts"]["trace"]
    assert (done["transaction"], trace["op"]) == ("receive orders", "queue.receive")
    assert len(queue.took) == 2
    trace_id, span_id, _ = ids(done)
    assert {one["sentry-trace"] for one in queue.took} == {f"{trace_id}-{span_id}-1"}
    assert all(f"sentry-trace_id={trace_id}" in one["baggage"] for one in queue.took)


@pytest.mark.parametrize("options", [{"dsn": None}, {"traces_sample_rate": None}])
def test_without_tracing(init, pgnotifier_dsn, make_notifier, eventually, options):
    """Without tracing, dispatchers work as if nothing were instrumented."""
    if "dsn" not in options:
        init(**options)
    dispatcher = ThreadDispatcher()
    notifier = instrument(make_notifier(pgnotifier_dsn, dispatcher=dispatcher))
    came = threading.Event()
    notifier.subscribe(1, "orders", lambda *_: came.set(), autorun=True)
    notifier.notify("orders")
    assert came.wait(60)
    assert dispatcher.tracing is None


JOBS = f"""
import json, sys, time
from redis import Redis
from rq import Queue, SimpleWorker, get_current_job
import sentry_sdk
from sentry_sdk.transport import Transport
from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQDispatcher
from pgnotifier.contrib.sentry import instrument

made, metas = [], []

class Memory(Transport):
    def capture_envelope(self, envelope):
        made.append(envelope.get_transaction_event())

def note(*_):
    metas.append(get_current_job().meta)

if __name__ == "__main__":
    import jobs  # as the worker knows it
    sentry_sdk.init("http://key@localhost/1", transport=Memory, traces_sample_rate=0.0)
    queue = Queue(connection=Redis.from_url(sys.argv[2]))
    with instrument(Notifier(sys.argv[1], dispatcher=RQDispatcher(queue))) as notifier:
        notifier.subscribe("plain", "orders", jobs.note)
        notifier.subscribe("own", "orders", jobs.note, meta={{"tenant": 7}})
        notifier.start()
        notifier.notify("orders", {{"traceparent": "{SAMPLED}"}})
        while queue.count < 2:
            time.sleep(0.01)
    SimpleWorker([queue], connection=queue.connection).work(burst=True)
    traces = [(one["transaction"], one["contexts"]["trace"]) for one in made]
    print(json.dumps([traces, jobs.metas]))
"""


def test_jobs_of_rq(pgnotifier_dsn, pgnotifier_redis_url, tmp_path):
    """Jobs of RQ continue the transaction of their notification, and keep their own meta."""
    (tmp_path / "jobs.py").write_text(JOBS)
    argv = [sys.executable, "jobs.py", pgnotifier_dsn, pgnotifier_redis_url]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    traces, metas = json.loads(done.stdout.splitlines()[-1])
    ((_, received),) = [one for one in traces if one[0] == "receive orders"]
    worked = [trace for name, trace in traces if name == "jobs.note"]
    assert received["parent_span_id"] == SPAN
    assert len(worked) == 2
    assert {one["parent_span_id"] for one in worked} == {received["span_id"]}
    assert {one["trace_id"] for one in (received, *worked)} == {TRACE}
    assert sorted(one.get("tenant", 0) for one in metas) == [0, 7]
