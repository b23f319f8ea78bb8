"""Enqueue tasks and jobs by SQL."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

TASK, JOB = "pgnotifier:celery:", "pgnotifier:rq:"
EMPTY = {"args": [], "kwargs": {}}


@pytest.fixture
def enqueue(log):
    """Return a function that calls `enqueue` or `enqueue_job`, and returns what was published."""
    for channel in (TASK, JOB):
        log.execute("SELECT pgnotifier.open_outbox('shop', %s)", f"{channel}default")

    def enqueue(arguments, function="enqueue"):
        ((made,),) = log.execute(f"SELECT pgnotifier.{function}({arguments})")
        query = "SELECT channel, key, payload FROM pgnotifier.log ORDER BY id DESC LIMIT 1"
        ((channel, key, payload),) = log.execute(query)
        found = json.loads(payload)
        queue = found.get("queue")
        assert key == (queue and f"\x1f{queue}\x1f{found.get('priority', 0)}")
        assert found.pop("id") == str(made)
        return channel, found

    return enqueue


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ("'a.b'", {}),
        ("'a.b', '[7, null, {\"x\": null}]'", {"args": [7, None, {"x": None}]}),
        ("'a.b', kwargs => '{\"x\": null}'", {"kwargs": {"x": None}}),
        ("'a.b', queue => 'lo\"w'", {"queue": 'lo"w'}),
        ("'a.b', priority => 0", {"priority": 0}),
        ("'a.b', headers => '{\"h\": [1]}'", {"headers": {"h": [1]}}),
        ("'a.b', eta => '2030-01-01 12:00+02'", {"eta": "2030-01-01T10:00:00.000000+00:00"}),
        (
            "'a.b', expires => '2030-01-01 00:00:00.25+00'",
            {"expires": "2030-01-01T00:00:00.250000+00:00"},
        ),
        ("'a.b', args => jsonb_build_array(7, 'é\\\"')", {"args": [7, 'é\\"']}),
    ],
)
def test_tasks(enqueue, arguments, fields):
    """What isn't given is left out; what is given is there as it is, with its nulls."""
    assert enqueue(arguments) == (f"{TASK}default", {"task": "a.b", **EMPTY, **fields})


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ("'a.b'", {}),
        ("'a.b', '[7]', '{\"x\": 1}', 'low'", {"args": [7], "kwargs": {"x": 1}, "queue": "low"}),
        ("'a.b', at => '2030-01-01 00:00+00'", {"at": "2030-01-01T00:00:00.000000+00:00"}),
        (
            "'a.b', timeout => 5, result_ttl => -1, failure_ttl => 0, ttl => 7",
            {"timeout": 5, "result_ttl": -1, "failure_ttl": 0, "ttl": 7},
        ),
        (
            "'a.b', description => 'it''s \"new\"', meta => '{\"by\": \"cron\"}'",
            {"description": 'it\'s "new"', "meta": {"by": "cron"}},
        ),
    ],
)
def test_jobs(enqueue, arguments, fields):
    """Jobs have the same shape, with RQ's options."""
    expected = {"function": "a.b", **EMPTY, **fields}
    assert enqueue(arguments, "enqueue_job") == (f"{JOB}default", expected)


@pytest.mark.parametrize(
    ("function", "arguments", "field"),
    [
        ("enqueue", "'a.b', countdown => '90 seconds'", "eta"),
        ("enqueue_job", "'a.b', delay => '90 seconds'", "at"),
    ],
)
def test_delays(log, enqueue, function, arguments, field):
    """A delay becomes a time, in UTC, whatever the session's settings are."""
    log.execute("SET TimeZone = 'Asia/Kolkata'")
    log.execute("SET DateStyle = 'SQL, DMY'")
    log.execute("SET IntervalStyle = 'iso_8601'")
    before = datetime.now(UTC)
    _, found = enqueue(arguments, function)
    after = datetime.now(UTC)
    moment = datetime.fromisoformat(found[field])
    assert moment.utcoffset() == timedelta()
    slack = timedelta(seconds=1)  # of the two clocks
    assert before - slack <= moment - timedelta(seconds=90) <= after + slack


def test_ids(log, enqueue):
    """The id is the given one, and else a new one for each call; also if a null is given."""
    given = uuid.uuid4()
    for arguments in (f"'a.b', id => '{given}'", "'a.b', id => NULL", "'a.b'"):
        enqueue(arguments)
    payloads = log.execute("SELECT payload::jsonb ->> 'id' FROM pgnotifier.log ORDER BY id")
    ids = [uuid.UUID(one) for (one,) in payloads]
    assert ids[0] == given
    assert len(set(ids)) == 3
    assert {one.version for one in ids} == {4}


def test_several_outboxes(log, enqueue):
    """Each outbox has a channel, and needs a relay: nothing would keep what is enqueued there."""
    for function, channel in (("enqueue", TASK), ("enqueue_job", JOB)):
        call = f"SELECT pgnotifier.{function}('a.b', outbox => 'second')"
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
            log.execute(call)
        assert f"no relay has subscribed to channel '{channel}second' yet" in str(caught.value)
        assert "pgnotifier.open_outbox()" in caught.value.diag.message_hint
        with log.connection.transaction():
            log.execute("SELECT pgnotifier.open_outbox('shop', %s)", f"{channel}second")
            log.execute(call)
        assert enqueue("'a.b', outbox => 'second'", function)[0] == f"{channel}second"
    assert enqueue("'a.b', outbox => NULL")[0] == f"{TASK}default"


def test_a_rollback(log, enqueue):
    """A task is part of the transaction, also of a savepoint."""
    with log.connection.transaction():
        enqueue("'kept'")
        with log.connection.transaction(force_rollback=True):
            enqueue("'undone'")
    with log.connection.transaction(force_rollback=True):
        enqueue("'undone'")
    assert log.execute("SELECT payload::jsonb ->> 'task' FROM pgnotifier.log") == [("kept",)]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("NULL", "the name of a task has 1 to 1,024 bytes"),
        ("''", "the name of a task has 1 to 1,024 bytes"),
        ("repeat('€', 342)", "the name of a task has 1 to 1,024 bytes"),
        ("'a.b', '{}'", "args must be a JSON array, not object"),
        ("'a.b', ('[' || NULL || ']')::jsonb", "args must be a JSON array, not null"),
        ("'a.b', kwargs => '[]'", "kwargs must be a JSON object, not array"),
        ("'a.b', kwargs => NULL", "kwargs must be a JSON object, not null"),
        ("'a.b', headers => '\"x\"'", "headers must be a JSON object, not string"),
        ("'a.b', headers => 'null'", "headers must be a JSON object, not null"),
        ("'a.b', queue => ''", "the name of a queue has 1 to 255 bytes"),
        ("'a.b', queue => repeat('x', 256)", "the name of a queue has 1 to 255 bytes"),
        ("'a.b', countdown => '1s', eta => now()", "give countdown or eta, not both"),
        ("'a.b', eta => 'infinity'", "eta: infinity is not a time that a worker could wait for"),
        ("'a.b', countdown => '9000 years'", "countdown: .* is not a time that a worker"),
        ("'a.b', expires => '0005-01-01 BC'", "expires: .* BC is not a time that a worker"),
        ("'a.b', priority => -1", "the priority must be from 0 to 255, not -1"),
        ("'a.b', priority => 256", "the priority must be from 0 to 255, not 256"),
        ("'a.b', outbox => repeat('x', 46)", "the name of an outbox is too long: .* has 64 bytes"),
    ],
)
def test_mistakes_in_tasks(log, enqueue, arguments, problem):
    """What can't work is refused where it is enqueued, and the error says what it is."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=problem):
        enqueue(arguments)
    assert log.count() == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("''", "the name of a function has 1 to 1,024 bytes"),
        ("'a.b', '1'", "args must be a JSON array, not number"),
        ("'a.b', delay => '1s', at => now()", "give delay or at, not both"),
        ("'a.b', meta => '[]'", "meta must be a JSON object, not array"),
        ("'a.b', ttl => -2", "a number of seconds is -1 or more, not -2"),
        ("'a.b', outbox => repeat('x', 50)", "the name of an outbox is too long: .* has 64 bytes"),
    ],
)
def test_mistakes_in_jobs(log, enqueue, arguments, problem):
    """The same for jobs."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=problem):
        enqueue(arguments, "enqueue_job")
    assert log.count() == 0


@pytest.mark.slow
def test_arguments_that_are_too_large(log, enqueue):
    """An entry has 64 MiB at most, and the error says how many bytes there are."""
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match=r"an entry has 6710\d{4} bytes"):
        enqueue("'a.b', jsonb_build_array(repeat('x', 67108864))")
    assert log.count() == 0


def test_a_trigger(log, enqueue):
    """A trigger enqueues a task for each row, in the row's transaction."""
    log.execute("CREATE TABLE public.orders (id int)")
    log.execute(
        "CREATE FUNCTION public.invoice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pgnotifier.enqueue('shop.invoice', jsonb_build_array(new.id), queue => 'low');"
        " RETURN NULL; END $$"
    )
    log.execute(
        "CREATE TRIGGER invoice AFTER INSERT ON public.orders"
        " FOR EACH ROW EXECUTE FUNCTION public.invoice()"
    )
    log.execute("INSERT INTO public.orders VALUES (1), (2)")
    payloads = log.execute("SELECT payload::jsonb -> 'args' FROM pgnotifier.log ORDER BY id")
    assert payloads == [([1],), ([2],)]


def test_the_signature_in_the_documentation(log):
    """docs/outbox.md shows the parameters of `enqueue`, with their types and defaults."""
    ((given,),) = log.execute("SELECT pg_get_function_arguments('pgnotifier.enqueue'::regproc)")
    short = {" DEFAULT ": " = ", "integer": "int", "timestamp with time zone": "timestamptz"}
    for long, name in {**short, r"::[\w ]+": ""}.items():
        given = re.sub(long, name, given)
    text = (Path(__file__).parents[3] / "docs" / "outbox.md").read_text()
    shown = re.search(
        r"^pgnotifier\.enqueue\(\n(.*?)\n\) RETURNS uuid$", text, re.DOTALL | re.MULTILINE
    )
    assert " ".join(shown[1].split()) == given
