"""Arguments of jobs may be personal: RQ's outbox and its relay log none of them, at any level."""

import json
import logging
import traceback
from contextlib import closing, suppress
from datetime import UTC, datetime

import psycopg
import pytest
from click.testing import CliRunner
from redis import Redis, ResponseError
from rq import Queue
from rq.serializers import DefaultSerializer

from pgnotifier import durable
from pgnotifier._log.outbox_queries import list_entries
from pgnotifier.cli.command import pgnotifier
from pgnotifier.contrib.rq import RQOutbox
from pgnotifier.contrib.rq.job_capture import JobCapture
from pgnotifier.contrib.rq.outbox_jobs import read
from pgnotifier.contrib.rq.relay import JobRelayDispatcher
from pgnotifier.errors import ArgumentTypeError

SECRET = "jane@example.com"
NUMBER = 555_0199
LATER = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
QUEUE = "secret-jobs"
SERIALIZERS = {
    "json": "rq.serializers.JSONSerializer",
    "pickle": "rq.serializers.DefaultSerializer",
}
"""Those of RQ, by paths, as older versions have no names for them."""


class FailingSerializer(DefaultSerializer):
    """Puts what it can't serialize into its error."""

    @staticmethod
    def dumps(value):
        if "shop.fail" in repr(value):
            raise ValueError(f"cannot serialize {value!r}")
        return DefaultSerializer.dumps(value)


class BrokenSerializer(DefaultSerializer):
    """Fails as a server does that is down."""

    @staticmethod
    def dumps(value):
        if "shop.add" in repr(value):
            raise OSError(f"cannot reach the keys for {value!r}")
        return DefaultSerializer.dumps(value)


class FailingQueue(Queue):
    """Puts the job into its error."""

    def schedule_job(self, job, *_, **__):
        raise ValueError(f"no such day: {job} {job.description}")


class RefusingQueue(Queue):
    """Fails as a server does that names what it has got."""

    def schedule_job(self, job, *_, **__):
        raise ResponseError(f"unknown command 'HSET', with args beginning with: {job.description}")


def work(*args, **kwargs):
    """Do nothing: no worker runs."""


@pytest.fixture
def url(pgnotifier_private_valkey):
    """Return the URL of an empty database of a server that may be killed."""
    with closing(Redis.from_url(pgnotifier_private_valkey.url)) as redis:
        redis.flushdb()
    return pgnotifier_private_valkey.url


@pytest.fixture
def written(caplog):
    """Return a function that returns all that was logged, with what is beside the messages."""
    caplog.set_level(logging.DEBUG)
    formatter = logging.Formatter()

    def written():
        texts = [formatter.format(one) for one in caplog.records]
        return "\n".join([*texts, repr([vars(one) for one in caplog.records])])

    return written


def relay(make_notifier, log, queue):
    """Start a relay; return its notifier."""
    notifier = make_notifier(log.dsn)
    RQOutbox(queue).relay_to(notifier, allow=["shop.*"])
    notifier.start()
    return notifier


def kept(log):
    """Return the reasons of what has failed, with the tracebacks."""
    return repr(log.execute("SELECT error, traceback FROM pgnotifier.failed ORDER BY n"))


def ask(log, function, **options):
    """Have SQL ask for a job with personal arguments."""
    given = {"args": [SECRET], "kwargs": {"phone": NUMBER}, **options}
    names = ", ".join(f"{name} => %s" for name in given)
    values = [json.dumps(one) if isinstance(one, dict | list) else one for one in given.values()]
    log.execute(f"SELECT pgnotifier.enqueue_job(%s, {names})", function, *values)


def check(*texts):
    """Check that no text has an argument."""
    for text in texts:
        assert SECRET not in text
        assert str(NUMBER) not in text


@pytest.mark.parametrize(
    ("serializer", "fails"), [(FailingSerializer, True), ("pickle", False), ("json", False)]
)
def test_no_argument_is_logged(
    log, url, make_notifier, eventually, written, pgnotifier_private_valkey, serializer, fails
):
    """Neither what is sent nor what is refused leaves an argument in a log, a reason, a status."""
    with closing(Redis.from_url(url)) as redis:
        queue = FailingQueue(
            QUEUE, connection=redis, serializer=SERIALIZERS.get(serializer, serializer)
        )
        outbox = RQOutbox(queue)
        options = {"description": f"for {SECRET}", "meta": {"for": SECRET}}
        with psycopg.connect(log.dsn) as connection:
            sent = outbox.enqueue(connection, work, SECRET, phone=NUMBER)
            outbox.enqueue_at(connection, LATER, work, SECRET, phone=NUMBER)
            outbox.enqueue_at(connection, LATER, work, SECRET, **options)
            with outbox(connection):
                other = queue.enqueue(work, SECRET, phone=NUMBER, meta={"for": SECRET})
            block = outbox(connection)
            with pytest.raises(ZeroDivisionError), block:
                queue.enqueue(work, SECRET)
                raise ZeroDivisionError
            check(repr(block))
        ask(log, "os.system")
        ask(log, "shop.fail", description=SECRET)
        ask(log, "shop.add", meta={"for": SECRET}, timeout=0)
        ask(log, "shop.add", queue="wrong")
        redis.set("rq:queue:wrong", "no list")
        log.execute(
            "INSERT INTO pgnotifier.log (channel, payload) VALUES (%s, %s), (%s, %s)",
            *(outbox.channel, f'{{"function": "a", "args": "{SECRET}"}}'),
            *(outbox.channel, f'{{"job": "{SECRET}"'),
        )
        pgnotifier_private_valkey.kill()
        notifier = relay(make_notifier, log, queue)
        eventually(lambda: any(one.retrying for one in notifier.status().dispatchers))
        pgnotifier_private_valkey.start()
        eventually(lambda: {sent.id, other.id} <= {*queue.job_ids})
        ask(log, "shop.last")
        eventually(lambda: "shop.last" in str(notifier.status().dispatchers[0].details))
        status = json.dumps(notifier.status().to_dict(), default=repr)
        notifier.stop()
    assert "ValueError; its text is hidden, as it contains arguments of the job" in kept(log)
    assert kept(log).count("Error; its text is hidden") >= (3 if fails else 2)
    check(written(), kept(log), status)


@pytest.mark.parametrize("kind", ["serializer", "queue"])
def test_no_argument_is_logged_while_everything_waits(
    log, url, make_notifier, eventually, written, kind
):
    """What seems to be an error of the server is tried again, and is shown without its text."""
    with closing(Redis.from_url(url)) as redis:
        if kind == "serializer":
            queue = Queue(QUEUE, connection=redis, serializer=BrokenSerializer)
            log.execute("SELECT pgnotifier.subscribe('outbox:rq:default', 'pgnotifier:rq:default')")
            ask(log, "shop.add")
        else:
            queue = RefusingQueue(QUEUE, connection=redis)
            with psycopg.connect(log.dsn) as connection:
                RQOutbox(queue).enqueue_at(connection, LATER, work, SECRET, phone=NUMBER)
        notifier = relay(make_notifier, log, queue)
        eventually(lambda: any(one.retrying for one in notifier.status().dispatchers))
        status = json.dumps(notifier.status().to_dict(), default=repr)
        notifier.stop(0)
    assert "its text is hidden" in status
    check(written(), kept(log), status)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_what_is_shown(log, url, serializer):
    """Neither lists nor pages of an entry show an argument, unless they are asked to."""
    with closing(Redis.from_url(url)) as redis:
        queue = Queue(QUEUE, connection=redis, serializer=SERIALIZERS.get(serializer, serializer))
        with psycopg.connect(log.dsn) as connection:
            outbox = RQOutbox(queue)
            for _ in range(2):
                outbox.enqueue(
                    connection, work, SECRET, phone=NUMBER, description=SECRET, meta={"a": SECRET}
                )
            outbox.enqueue(connection, work, SECRET)
    ask(log, "shop.add", description=SECRET)
    connection = log.connection
    (one,) = durable.outboxes(connection)
    waiting = list_entries(connection, one.sub)
    log.execute("SELECT pgnotifier.set_aside(%s, %s, 'no')", one.sub, [waiting[0].id])

    def run(*arguments, fails=False):
        done = CliRunner().invoke(pgnotifier, arguments, env={"PGNOTIFIER_DSN": log.dsn})
        assert bool(done.exit_code) is fails, done.output
        return done.output

    numbers = [str(entry.id) for entry in waiting]
    for form in ([], ["--json"]):
        check(run("outbox", *form), run("outbox", "list", *form), run("dead", "list", *form))
        check(*(run("outbox", "show", number, *form) for number in numbers))
        check(run("positions", "list", *form), run("status", *form, fails=True))
    check(run("dead", "show", "1"), repr(one), repr(waiting))
    redacted = [run("outbox", "show", number, "--redact", "phone") for number in numbers]
    check(*redacted)
    assert ('"phone": "…"' in redacted[0]) is (serializer == "json")
    assert ("args: pickled" in redacted[0]) is (serializer == "pickle")
    assert SECRET in run("outbox", "show", numbers[0], "--arguments")


def test_no_argument_is_in_a_repr(url):
    """What debuggers and reports of errors show of a job names its function and its id."""
    with closing(Redis.from_url(url)) as redis:
        queue = Queue(QUEUE, connection=redis)
        capture = JobCapture(queue)
        capture.queue.enqueue(work, SECRET, phone=NUMBER, job_id="seven")
        (made,) = capture.take(1)
        asked = read(json.dumps({"function": "shop.add", "args": [SECRET], "description": SECRET}))
        shown = [*map(repr, (made, asked, RQOutbox(queue), JobRelayDispatcher(queue), capture))]
    check(*shown)
    assert shown[0] == f"<MadeJob 'seven' of '{__name__}.work' for queue '{QUEUE}'>"
    assert shown[1] == "<JobRequest None of 'shop.add' for queue None>"


def test_no_argument_is_in_an_error(log, url, written):
    """What the outbox refuses by itself is named by its type."""
    with closing(Redis.from_url(url)) as redis:
        outbox = RQOutbox(Queue(QUEUE, connection=redis))
        calls = [
            lambda: outbox.enqueue(log.connection, work, SECRET, phone=NUMBER, pipeline=object()),
            lambda: outbox.enqueue(7, work, SECRET, phone=NUMBER),
            lambda: outbox.enqueue_many(log.connection, [(work, SECRET)]),
            lambda: outbox.enqueue(log.connection, work, SECRET, description=f"\ud800{SECRET}"),
        ]
        for call in calls:
            with pytest.raises((ArgumentTypeError, ValueError)) as found:
                call()
            check("".join(traceback.format_exception_only(found.value)))
        with suppress(psycopg.Error), psycopg.connect(log.dsn, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = on")
            with pytest.raises(Exception, match=r".") as found:
                outbox.enqueue(connection, work, SECRET, phone=NUMBER)
            check("".join(traceback.format_exception(found.value)))
    check(written())
