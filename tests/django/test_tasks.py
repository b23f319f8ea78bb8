"""Tasks: receivers that workers of Celery, RQ and Django call."""

import os
from datetime import timedelta

import pytest
import waiting
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError
from redis import Redis
from rq import Queue, SimpleWorker
from rq.timeouts import TimerDeathPenalty

from pgnotifier import (
    ArgumentTypeError,
    ConfigurationError,
    DispatcherMismatchError,
    InlineDispatcher,
    PgNotifierError,
    UnknownOptionError,
)
from pgnotifier.contrib.django import Channel
from pgnotifier.contrib.django.channels import find_task_problems
from pgnotifier.contrib.django.notifiers import get_notifier, make_dispatcher
from pgnotifier.contrib.django.running import ReceiverNotFoundError, run
from pgnotifier.contrib.django.test import captureNotifications
from pgnotifier.payload import decode
from pgnotifier.testing.contract.hard_payloads import HARD
from shop.notifications import found


@pytest.fixture
def listening(transactional_db, through, eventually):
    """Return a function that sends payloads to a listener, and waits until they are enqueued."""

    def listening(kind, *payloads):
        notifier = through(kind)
        notifier.start()
        try:
            for payload in payloads:
                found.notify(payload)
            count = len(payloads)
            eventually(lambda: notifier.status().received >= count)
        finally:
            assert notifier.stop(20) == 0

    return listening


PAYLOADS = [{"n": 1}, (1, b"x"), "text", 2**70]


def check(calls):
    """Assert that each task was called with each payload, unchanged."""
    for what in ("work", "async"):
        found_here = [(payload, kwargs) for name, _, payload, kwargs in calls if name == what]
        assert [payload for payload, _ in found_here] == PAYLOADS
        for payload, kwargs in found_here:
            assert kwargs["channel"] == "found"
            assert kwargs["signal"] is found
            assert kwargs["notification"].payload == payload
            assert kwargs["pid"] > 0


def test_called_in_the_listener(listening, calls):
    """With the dispatcher `inline`, the listener calls the tasks."""
    listening("inline", *PAYLOADS)
    check(calls)


def test_as_tasks_of_django(listening, calls):
    """With the dispatcher `tasks`, the backend gets the tasks, and here calls them at once."""
    listening("tasks", *PAYLOADS)
    check(calls)


def test_as_jobs_of_rq(listening, calls, settings):
    """With the dispatcher `rq`, tasks are enqueued as jobs, and RQ's worker calls them."""
    url = os.environ["TEST_DJANGO_REDIS_URL"]
    settings.PGNOTIFIER = {"RQ_QUEUE": url}
    listening("rq", *PAYLOADS)
    assert calls == []

    class Worker(SimpleWorker):
        death_penalty_class = TimerDeathPenalty

    with Redis.from_url(url) as connection:
        queue = Queue(connection=connection)
        assert {job.description for job in queue.jobs} == {"work", "work.async"}
        Worker([queue], connection=connection).work(burst=True)
    check(calls)


def test_as_tasks_of_celery(listening, calls, settings):
    """With the dispatcher `celery`, tasks are named by their ids; Celery's worker calls them."""
    from celery import Celery
    from celery.contrib.testing.worker import start_worker

    app = Celery("project", broker=os.environ["TEST_DJANGO_REDIS_URL"], set_as_current=True)
    app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
    with app:
        listening("celery", *PAYLOADS)
        assert {"pgnotifier.work", "pgnotifier.work.async"} <= app.tasks.keys()
        assert calls == []
        with start_worker(app, perform_ping_check=False):
            waiting.eventually(lambda: len(calls) == 2 * len(PAYLOADS))
    check(sorted(calls, key=lambda call: PAYLOADS.index(call[2])))


def test_in_a_test(db, calls):
    """`captureNotifications(execute=True)` calls tasks as well."""
    with captureNotifications(execute=True):
        found.notify(PAYLOADS[0])
    assert sorted(name for name, *_ in calls) == ["async", "work"]


def test_the_decorated_function_stays_as_it_is():
    """`Channel.task` returns the function itself, so that it can be called and tested."""
    channel = Channel("decorated")

    @channel.task
    def plain(sender, payload, **kwargs):
        return payload

    assert plain(None, 5) == 5
    assert [*channel.tasks] == [f"{__name__}.{plain.__qualname__}"]
    get_notifier("default").remove_channel("decorated", autorun=False)
    del Channel.known["decorated"]


@pytest.mark.django_db(databases="__all__")
@pytest.mark.parametrize("texts", [[text] for text in HARD] + [HARD], ids=len)
def test_any_payload_is_run(calls, texts):
    """A task gets any payload, even a deeply nested one or a batch; its notification shows it."""
    payloads = list(map(decode, texts))
    payload = payloads[0] if len(texts) == 1 else payloads
    run("work", "found", payload, 1)
    ((_, _, arrived, kwargs),) = calls
    assert repr(arrived) == repr(payload)
    if len(texts) == 1:
        assert repr(decode(kwargs["notification"].raw)) == repr(payload)


def test_a_task_that_is_not_there():
    """A task that a worker doesn't have is an error that names the task and the channel."""
    with pytest.raises(ReceiverNotFoundError, match="no task 'nothing' on channel 'found'"):
        run("nothing", "found", 1, 1)
    with pytest.raises(ReceiverNotFoundError, match="no task 'work' on channel 'nowhere'"):
        run("work", "nowhere", 1, 1)


def test_gaps_of_tasks(db):
    """`on_gap` is called as a task with the gap, even if another task has the same id."""
    channel, seen = Channel("gaps"), []
    channel.task(
        lambda **_: None, id="a", on_gap=lambda sender, gap, **_: seen.append((sender, gap))
    )
    subscriptions = get_notifier("default").get_subscriptions()["gaps"]
    assert subscriptions == {"a": run}
    channel.task(lambda payload, **_: seen.append(payload), id=("a", "gap"))
    run(("a", "gap"), "gaps", {"since": "now"}, 0)
    run(("a", "gap"), "gaps", "another task's", 1)
    assert seen == [(channel, {"since": "now"}), "another task's"]
    get_notifier("default").remove_channel("gaps", autorun=False)
    del Channel.known["gaps"]


@pytest.mark.parametrize(
    ("id", "options", "error", "text"),
    [
        ("b", {"anything": 1}, UnknownOptionError, "anything= is not an option of tasks"),
        ("b", {"run_after": 5}, ArgumentTypeError, "run_after must be a timedelta"),
        ("b", {"priority": 1000}, ConfigurationError, "task 'b': the backend refuses"),
        ("b", {"run_after": timedelta(seconds=5)}, ConfigurationError, "the backend refuses"),
        (frozenset(), {}, DispatcherMismatchError, "can't be written as text"),
        ("b", {"batch": 5}, PgNotifierError, "batch"),
    ],
)
def test_options_are_those_of_the_dispatcher(through, id, options, error, text):
    """An option that is refused stops only the listener; `inline` accepts any."""
    channel = Channel("options")
    try:
        channel.task(lambda **_: None, id="a", queue="low", anything=1)
        through("tasks")
        channel.task(lambda **_: None, id=id, **options)
        ((found, key, problem),) = find_task_problems()
        assert (found, key) == (channel, id)
        assert isinstance(problem, error)
        assert text in str(problem)
        with pytest.raises(CommandError, match="of channel 'options': "):
            call_command("pgnotifier", "--noreload")
    finally:
        get_notifier("default").remove_channel("options", autorun=False)
        del Channel.known["options"]


def test_options_of_tasks(db):
    """Queue, priority and backend are passed to the backend."""
    from pgnotifier.contrib.django.task_dispatcher import TaskDispatcher

    dispatcher = TaskDispatcher()
    subscription = _subscription(dispatcher, backend="dummy", queue="low", priority=5)
    target = dispatcher.bind(subscription)
    assert (target.task.backend, target.task.queue_name, target.task.priority) == (
        "dummy",
        "low",
        5,
    )


def _subscription(dispatcher, **options):
    from pgnotifier import Subscription

    return Subscription("a", "found", run, dispatcher, options)


def test_dispatchers():
    """A class makes a dispatcher; None and a callable that makes something else are refused."""
    assert isinstance(make_dispatcher(InlineDispatcher), InlineDispatcher)
    with pytest.raises(ImproperlyConfigured, match="tasks need PGNOTIFIER"):
        make_dispatcher(None)
    with pytest.raises(ImproperlyConfigured, match=r"must make a pgnotifier\.Dispatcher"):
        make_dispatcher(dict)


def test_by_its_path(settings):
    """The dispatcher may be a path, and a path that can't be imported is refused."""
    settings.PGNOTIFIER = {"DISPATCHER": "pgnotifier.InlineDispatcher"}
    assert isinstance(make_dispatcher("pgnotifier.InlineDispatcher"), InlineDispatcher)
    settings.PGNOTIFIER = {"DISPATCHER": "no.such.thing"}
    with pytest.raises(ImproperlyConfigured, match=r"PGNOTIFIER\['DISPATCHER'\]: No module"):
        make_dispatcher("no.such.thing")
