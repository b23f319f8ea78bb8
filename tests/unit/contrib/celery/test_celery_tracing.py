"""Tracing: stamped messages have the headers that Sentry and OpenTelemetry add to Celery's."""

import json
import os
from collections import defaultdict
from importlib.util import find_spec  # importing them takes long
from pathlib import Path

import pytest

MISSING = [name for name in ("sentry_sdk", "opentelemetry") if find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason="needs libraries for tracing"),
    pytest.mark.slow,
    pytest.mark.xdist_group("tracing"),  # they have the same process that has imported these
]

SCRIPT = Path(__file__).with_name("traced.py")
STAMPED, CANVAS = ["stamped", None], ["apply_async", "it is a canvas"]


@pytest.fixture
def run(pgnotifier_redis_url, preforked, tmp_path):
    """Return a function that runs a scenario in a process of its own, and returns its result."""

    def run(scenario):
        log, argv = tmp_path / "log", [str(SCRIPT), scenario, pgnotifier_redis_url]
        script = preforked.fork("tracing", argv, cwd=tmp_path, env=dict(os.environ), log=log)
        code, said = script.wait(120), log.read_text()
        assert code == 0, said
        return json.loads(said.splitlines()[-1])

    return run


def by_payload(headers, read):
    """Return what `read` returns for the headers of each task, by the notification's payload."""
    found = defaultdict(list)
    for one in headers:
        if "," in one["argsrepr"]:  # not that of an immutable signature
            found[one["argsrepr"].split(", ")[2]].append(read(one))
    return found


def check_traces(headers, read, count=6):
    """Check that tasks of one notification have the same trace, and other notifications another."""
    traces = by_payload(headers, read)
    assert len(traces) == count
    for ids in traces.values():
        assert len(ids) == 3
        assert len(set(ids)) == 1
    assert len({ids[0] for ids in traces.values()}) == count


def sentrys(headers):
    """Return the id of Sentry's trace, and check that all headers agree on it."""
    trace_id, _, _ = headers["sentry-trace"].partition("-")
    assert len(trace_id) == 32
    assert f"sentry-trace_id={trace_id}" in headers["baggage"]
    assert "sentry-environment=test" in headers["baggage"]
    assert isinstance(headers["sentry-task-enqueued-time"], float)
    inner = headers["headers"]  # the worker's request.headers
    for name in ("sentry-trace", "baggage", "sentry-task-enqueued-time", "pgnotifier"):
        assert inner[name] == headers[name]
    return trace_id


def opentelemetrys(headers):
    """Return the id of OpenTelemetry's trace."""
    version, trace_id, _, flags = headers["traceparent"].split("-")
    assert (version, len(trace_id)) == ("00", 32)
    assert int(flags, 16) & 1
    return trace_id


@pytest.mark.parametrize("scenario", ["sentry", "sentry_without_tracing"])
def test_sentry(run, scenario):
    """Each notification has its own trace, whether Celery or a stamp made its messages."""
    found = run(scenario)
    assert found["ways"] == [STAMPED, STAMPED, CANVAS]
    check_traces(found["headers"], sentrys)


def test_opentelemetry(run):
    """Each task has a span; the first one of a notification is the parent of the others."""
    found = run("opentelemetry")
    assert found["ways"] == [STAMPED, STAMPED, CANVAS]
    check_traces(found["headers"], opentelemetrys)
    spans = found["spans"]
    assert {span["kind"] for span in spans} == {"PRODUCER"}
    names = ["apply_async/own", "apply_async/pgnotifier.a", "apply_async/pgnotifier.b"]
    assert sorted({span["name"] for span in spans}) == names
    roots = [span for span in spans if span["parent"] is None]
    assert len(roots) == len({span["trace"] for span in spans}) == 6
    kinds = defaultdict(set)
    for span in spans:
        attributes = span["attributes"]
        names = ("messaging.message.id", "messaging.message_id")
        assert sum(len(attributes.pop(name, "")) for name in names) == 36
        kinds[span["name"]].add(tuple(sorted(attributes.items())))
    # The instrumentation's own spans and ours have the same attributes.
    assert all(len(some) == 1 for some in kinds.values()), kinds


def test_both(run):
    """If both libraries are active, messages have the traces of both."""
    found = run("both")
    assert found["ways"] == [STAMPED, STAMPED, CANVAS]
    check_traces(found["headers"], sentrys)
    check_traces(found["headers"], opentelemetrys)


def test_a_sampler_that_says_no(run):
    """If the sampler rejects a trace, no span is recorded, and the headers say so to workers."""
    found = run("unsampled")
    assert found["ways"] == [STAMPED, STAMPED, CANVAS]
    assert found["spans"] == 0
    assert {one["traceparent"][-2:] for one in found["headers"]} <= {"00", "02"}


def test_limits_of_spans(run):
    """The SDK's limits hold for the spans of stamped messages as for the instrumentation's own."""
    assert [len(attributes) for attributes in run("few_attributes")] == [2] * 5
    found = run("short_attributes")
    assert {len(attributes.pop("messaging.message.id")) for attributes in found} == {8}
    assert found == found[:1] * 5
    assert found[0]["celery.action"] == "apply_as"


def test_attributes_of_a_span_processor(run):
    """What a span processor adds to a span when it starts is kept, besides our attributes."""
    found = run("attributes_of_ones_own")
    assert len({attributes.pop("messaging.message.id") for attributes in found}) == 5
    assert found == found[:1] * 5
    assert found[0]["mark"] == "mine"
    assert found[0]["celery.action"] == "apply_async"


def test_propagators(run):
    """Each message has all headers that the propagator adds, with the ids of its own span."""
    for found in run("propagators"):
        assert found["ways"] == [STAMPED]
        parents = [one["traceparent"].split("-") for one in found["headers"]]
        assert [span for _, _, span, _ in parents] == found["spans"]
        assert len({*found["spans"]}) == 5
        assert len({flags for *_, flags in parents}) == 1  # as Celery's own messages have them
    assert [one["x-span"] for one in found["headers"]] == found["spans"]


def test_sentry_that_is_not_initialised(run):
    """If Sentry isn't initialised, messages are stamped, and have none of its headers."""
    found = run("not_initialised")
    assert found["ways"] == [STAMPED, STAMPED, CANVAS]
    names = {name for headers in found["headers"] for name in headers}
    assert not {name for name in names if "sentry" in name or name in ("baggage", "headers")}


def test_libraries_that_come_and_go(run):
    """After a library is started or stopped, the change applies from the next batch on."""
    found = run("come_and_go")
    telemetry = {"traceparent"}
    sentry = {"sentry-trace", "baggage", "sentry-task-enqueued-time", "headers"}
    expected = [set(), telemetry, telemetry | sentry, sentry, set()]
    for names, some in zip(found["names"], expected, strict=True):
        assert len(names) == 5
        for one in names:
            assert {*one} & (telemetry | sentry) == some
    assert found["ways"] == [STAMPED]


def test_a_receiver_that_nobody_knows(run):
    """If a signal has an unknown receiver, `apply_async` publishes all messages, with traces."""
    found = run("a_stranger")
    reason = "the signal before_task_publish has receivers"
    assert found["ways"] == [["apply_async", reason]] * 2 + [CANVAS]
    assert found["calls"] == len(found["headers"]) == 6 * 4
    check_traces(found["headers"], opentelemetrys)


def test_a_library_of_another_shape(run):
    """If this version of Sentry isn't supported, Celery makes the messages, with that reason."""
    found = run("another_shape")
    assert found["ways"] == [
        ["apply_async", "this version of Sentry isn't supported: AttributeError"]
    ]
    assert (found["count"], found["reported"]) == (4, 0)


def test_headers_of_ones_own(run):
    """A user's own headers are kept; if they hold a trace, Celery makes the messages."""
    found = run("headers_of_ones_own")
    assert found["ways"] == [STAMPED, ["apply_async", "its headers hold a trace of their own"]]
    for headers in found["headers"]:
        sentrys(headers)
        if "mine" in headers:
            assert headers["headers"]["mine"] == headers["mine"] == "yes"
        else:
            assert headers["baggage"].endswith(",mine=1")


def test_another_try(run):
    """If an answer is lost, the tasks are published again with the same ids and traces."""
    headers = run("another_try")["headers"]
    assert len(headers) == 12
    for read in (sentrys, opentelemetrys):
        traces = by_payload(headers, read)
        assert [len(set(ids)) for ids in traces.values()] == [1, 1, 1]
        assert len({ids[0] for ids in traces.values()}) == 3


def test_messages_that_are_stamped_together(run):
    """Each has the headers of its own span, in the trace of its notification."""
    found = run("together")
    assert found["pressed"] == [250, 250, 50, 50]  # a chunk at a time
    headers, spans = found["headers"], {span["id"]: span for span in found["spans"]}
    assert len(headers) == len(spans) == len(found["spans"]) == 600
    for read in (sentrys, opentelemetrys):
        traces = by_payload(headers, read)
        assert [len(set(ids)) for ids in traces.values()] == [1] * 300
        assert len({ids[0] for ids in traces.values()}) == 300
    assert {one["id"] for one in headers} == {
        spans[one["traceparent"].split("-")[2]]["attributes"]["messaging.message.id"]
        for one in headers
    }
    roots = [span for span in spans.values() if span["parent"] is None]
    assert {span["name"] for span in roots} == {"apply_async/pgnotifier.a"}
    assert len(roots) == 300


def test_a_payload_that_is_refused(run):
    """It is reported, and each has one span, in the first batch and in later ones."""
    found = run("refused")
    assert found["first"] == [4, 5]
    assert (len(found["headers"]), found["reported"]) == (2, 2)
    ids = [span["id"] for span in found["spans"]]
    assert len(ids) == 3
    assert [one["traceparent"].split("-")[2] for one in found["headers"]] == [ids[0], ids[2]]


def test_an_outbox(run):
    """What an outbox captures belongs to the trace of the code that publishes it."""
    found = run("captured")
    (headers,) = found["headers"]
    assert headers["sentry-trace"].startswith(found["trace"])
    assert headers["traceparent"].startswith("00-")
    assert found["spans"] == ["apply_async/own"]
