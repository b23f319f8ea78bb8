"""Receivers and tasks of durable channels know which entry of the log they are called for."""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import waiting
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from redis import Redis
from rq import Queue, SimpleWorker
from rq.timeouts import TimerDeathPenalty

from pgnotifier import Entry, current_entry
from pgnotifier.contrib.django import Channel, once
from pgnotifier.contrib.django.notifiers import get_notifier, replace_dispatchers
from pgnotifier.contrib.django.task_dispatcher import notification as their_task
from pgnotifier.contrib.django.test import captureNotifications, liveNotifications
from pgnotifier.durable import MaxLag
from pgnotifier.errors import (
    AlreadyDoneError,
    ArgumentTypeError,
    ConfigurationError,
    UnknownOptionError,
)


@pytest.fixture
def committed(transactional_db):
    """Let transactions commit; afterwards the log is empty, as before."""
    yield
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.log, pgnotifier.subscription, pgnotifier.gap CASCADE")


@pytest.fixture
def make_channel():
    """Yield a function that makes channels; afterwards they are forgotten."""
    made = []

    def make(name, **options):
        made.append(Channel(name, **options))
        return made[-1]

    yield make
    for channel in made:
        get_notifier("default").remove_channel(channel.name, autorun=False)
        channel._kept.discard(channel)
        Channel.known.pop(channel.name, None)


@pytest.fixture
def deliver(committed, settings):
    """Yield a function that has tasks done by a kind of worker, until a condition is true."""

    def deliver(kind, publish, is_done):
        notifier = get_notifier("default")
        notifier.start()
        try:
            publish()
            WORKERS[kind](is_done)
        finally:
            assert notifier.stop(20) == 0

    yield deliver
    replace_dispatchers("inline")


class Worker(SimpleWorker):
    """Runs jobs in this process."""

    death_penalty_class = TimerDeathPenalty


def work_with_rq(is_done):
    """Run an RQ worker until all is done."""
    with Redis.from_url(os.environ["TEST_DJANGO_REDIS_URL"]) as redis:
        queue = Queue(connection=redis)

        def work():
            Worker([queue], connection=redis).work(burst=True)
            return is_done()

        waiting.eventually(work)


def work_with_celery(is_done):
    """Run a Celery worker until all is done."""
    from celery import current_app
    from celery.contrib.testing.worker import start_worker

    with start_worker(current_app._get_current_object(), perform_ping_check=False):
        waiting.eventually(is_done)


WORKERS = {
    "inline": waiting.eventually,
    "tasks": waiting.eventually,
    "rq": work_with_rq,
    "celery": work_with_celery,
}


@pytest.fixture
def kind(request, settings):
    """Set a kind of dispatcher up, and return its name."""
    url = os.environ["TEST_DJANGO_REDIS_URL"]
    settings.PGNOTIFIER = {"DISPATCHER": "inline", "RQ_QUEUE": url}
    if request.param != "celery":
        replace_dispatchers(request.param)
        yield request.param
        return
    from celery import Celery

    app = Celery("project", broker=url, set_as_current=True)
    app.conf.update(
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        task_default_queue="entries",
    )
    with app:
        replace_dispatchers("celery")
        yield "celery"


@pytest.mark.parametrize("kind", [*WORKERS], indirect=True)
def test_tasks_get_entries(make_channel, deliver, kind):
    """A task's notification is the entry, in whatever worker it runs, and so is `current_entry`."""
    channel, seen = make_channel(f"entries of {kind}", durable=True), []

    @channel.task(id="plain", start="oldest")
    def plain(payload, notification, **_):
        seen.append(("plain", payload, notification, current_entry()))

    @channel.task(id="async", start="oldest")
    async def asynchronous(payload, notification, **_):
        seen.append(("async", payload, notification, current_entry()))

    @channel.task(id="batch", start="oldest", batch=(2, 60))
    def batch(payload, notification, **_):
        seen.append(("batch", payload, notification, current_entry()))

    before, ids = datetime.now(UTC), []

    def publish():
        ids.extend(channel.publish(payload, f"k {payload}") for payload in [{"n": 1}, (1, b"x")])

    deliver(kind, publish, lambda: len(seen) == 5)
    assert sorted(name for name, *_ in seen) == ["async", "async", "batch", "plain", "plain"]
    payloads = {ids[0]: {"n": 1}, ids[1]: (1, b"x")}
    for name, payload, entry, current in seen:
        assert isinstance(entry, Entry)
        assert entry is current
        assert payload == entry.payload
        assert entry.attempt == 1
        assert before <= entry.received_at <= datetime.now(UTC)
        assert before - timedelta(minutes=1) <= entry.published_at <= datetime.now(UTC)
        if name == "batch":
            assert (entry.id, payload, entry.count) == (ids[1], [*payloads.values()], 2)
        else:
            assert payload == payloads[entry.id]
            assert entry.key == f"k {payload}"
    assert current_entry() is None


@pytest.mark.parametrize("kind", [*WORKERS], indirect=True)
def test_each_entry_once(make_channel, deliver, kind):
    """`once` with the entry's id does the work of each entry, and of a repeated one once."""
    channel, done = make_channel(f"once by {kind}", durable=True), []

    @channel.task(id="invoice", start="oldest")
    def invoice(payload, notification, **_):
        with suppress(AlreadyDoneError), once(f"invoice:{notification.id}"):
            done.append(payload)
        if payload == 3:
            done.append("end")

    deliver(kind, lambda: [channel.notify(n) for n in (1, 2, 3)], lambda: "end" in done)
    get_notifier("default").seek("invoice", channel.name, "oldest")
    deliver(kind, lambda: None, lambda: done.count("end") == 2)
    assert done == [1, 2, 3, "end", "end"]


def test_tasks_that_wait_in_a_queue(db, make_channel):
    """A task without an entry's description, as earlier versions make it, is still run."""
    channel, seen = make_channel("waiting in a queue"), []
    channel.task(lambda payload, notification, **_: seen.append(notification), id="work")
    their_task.func("pgnotifier.contrib.django.running.run", '"work"', channel.name, '"7"', 5)
    ((notification),) = seen
    assert (notification.payload, notification.pid, notification.id) == (7, 5, None)


def test_receivers_know_their_entry(committed, make_channel):
    """`current_entry` is what a receiver gets as its notification."""
    channel, seen = make_channel("received with its entry", durable=True), []
    volatile = make_channel("received without")

    def take(notification, **_):
        seen.append((notification, current_entry()))

    async def take_later(notification, **_):
        seen.append((notification, current_entry()))

    channel.connect(take)
    channel.connect(take_later)
    volatile.connect(take)
    with liveNotifications() as live:
        channel.notify(1)
        volatile.notify(2)
        live.wait_for(2)
    entries = [pair for pair in seen if pair[0].payload == 1]
    assert len(entries) == 2
    assert all(current is entry and entry.id for entry, current in entries)
    assert [current for entry, current in seen if entry.payload == 2] == [None]


def test_in_tests(db, make_channel):
    """`captureNotifications(execute=True)` calls receivers and tasks with entries as well."""
    channel, seen = make_channel("captured with its entry", durable=True), []
    channel.connect(take := lambda notification, **_: seen.append((notification, current_entry())))
    channel.task(lambda notification, **_: seen.append((notification, current_entry())), id="work")
    with captureNotifications(execute=True) as sent:
        number = channel.publish(1, "k")
    channel.disconnect(take)
    assert [one.id for one in sent] == [number]
    assert [(one.id, one.key, current.id) for one, current in seen] == [(number, "k", number)] * 2


# --- how receivers read the log ---


def test_options_of_receivers(make_channel):
    """A durable channel takes the options of the subscription that its receivers share."""
    limit, age = MaxLag(entries=2), timedelta(minutes=5)
    options = {"start": "oldest", "max_attempts": 2, "on_failure": "stop", "max_lag": limit}
    channel = make_channel("read with options", durable=True, **options, max_age=age)
    channel.connect(take := lambda **_: None)
    durability = get_notifier("default").get_durability("receivers", channel.name)
    assert {name: getattr(durability, name) for name in options} == options
    assert durability.max_age == age
    channel.disconnect(take)


def test_options_are_the_same_everywhere(make_channel):
    """A channel that exists has its options, and can't be made with others."""
    channel = make_channel("limited", durable=True, max_lag=MaxLag(entries=2))
    assert Channel("limited") is channel
    assert Channel("limited", durable=True, max_lag=MaxLag(entries=2)) is channel
    assert Channel("limited", max_lag=None) is channel
    for options in ({"max_lag": MaxLag(entries=3)}, {"start": "oldest"}):
        with pytest.raises(ImproperlyConfigured, match=r"made with \{.*max_lag"):
            Channel("limited", **options)
    plain = make_channel("unlimited", durable=True)
    with pytest.raises(ImproperlyConfigured, match="has been made with no options"):
        Channel("unlimited", max_lag=MaxLag(entries=2))
    assert plain.reading == {}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_lag": MaxLag(entries=2)}, ImproperlyConfigured, "add durable=True"),
        ({"durable": True, "max_lag": 5}, ArgumentTypeError, "must be a MaxLag"),
        ({"durable": True, "start": "never"}, ConfigurationError, "'now', 'oldest'"),
        ({"durable": True, "max_attempts": 0}, ConfigurationError, "at least 1"),
        ({"durable": True, "on_failure": "go on"}, ConfigurationError, "'dead_letter' or 'stop'"),
        ({"durable": True, "max_age": timedelta()}, ConfigurationError, "must be positive"),
        ({"durable": True, "max_lags": 1}, UnknownOptionError, "did you mean 'max_lag'"),
    ],
)
def test_options_that_are_refused(options, error, text):
    """A wrong option raises where the channel is defined, and no channel is made."""
    with pytest.raises(error, match=text):
        Channel("refused", **options)
    assert "refused" not in Channel.known


def test_the_gap_of_receivers(committed, make_channel):
    """Receivers that exceed `max_lag` miss entries, and the channel sends `gap` before others."""
    limit = MaxLag(entries=2)
    channel, seen = make_channel("limited receivers", durable=True, max_lag=limit), []
    channel.connect(take := lambda payload, **_: seen.append(payload))
    channel.gap.connect(take_gap := lambda gap, **_: seen.append(gap))
    notifier = get_notifier("default")
    notifier.start()
    notifier.stop(20)
    ids = [channel.publish(n) for n in range(5)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pgnotifier.reclaim('0', 1)")
    notifier.start()
    try:
        waiting.eventually(lambda: len(seen) == 3)
    finally:
        notifier.stop(20)
        channel.gap.disconnect(take_gap)
        channel.disconnect(take)
    gap, *rest = seen
    assert rest == [3, 4]
    (dropped,) = gap["dropped"]
    assert (dropped["entries"], dropped["to_id"]) == (3, ids[2])


def test_tasks_with_a_limit(make_channel):
    """A durable task takes `on_gap` with `max_lag`, and not without."""
    channel = make_channel("limited tasks", durable=True)
    channel.task(lambda **_: None, id="a", max_lag=MaxLag(entries=2), on_gap=lambda gap, **_: None)
    channel.task(lambda **_: None, id="b", on_gap=lambda gap, **_: None)
    (problem,) = channel.find_problems().values()
    assert "no on_gap without max_lag" in str(problem)
    assert get_notifier("default").get_durability("a", channel.name).max_lag == MaxLag(entries=2)
