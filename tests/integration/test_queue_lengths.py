"""How long queues are, as `pgnotifier top` shows it: with Celery, with RQ, and without a broker."""

import socket
import threading

import pytest
from celery import Celery
from redis import Redis
from reported import make_report, make_subscription
from rq import Queue

from pgnotifier import Notifier
from pgnotifier.cli.target import Target
from pgnotifier.cli.top.queues import QueueLength, QueueWatcher, find_sources
from pgnotifier.contrib.celery.queue_lengths import CeleryQueues
from pgnotifier.contrib.rq import RQDispatcher


def work(id, channel, payload, pid):
    """Do nothing."""


@pytest.fixture
def watch():
    """Yield a function that starts what asks brokers."""
    made = []

    def start(target):
        made.append(QueueWatcher(find_sources(target), 0.25))
        return made[-1]

    yield start
    for one in made:
        one.stop()


def measured(watcher, *reports):
    """Return what is known by now."""
    return {one.name: one.length for one in watcher.latest(reports)}


def make_app(url):
    """Return a Celery app that nobody else uses."""
    return Celery("lengths", broker=url, set_as_current=False)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_celery(broker, request):
    """Queues are measured without being changed; one that is missing doesn't hide the others."""
    if broker == "redis":
        url = request.getfixturevalue("pgnotifier_redis_url")
    else:
        url = request.getfixturevalue("rabbitmq").url
    app = make_app(url)
    for priority in (0, 9):
        app.send_task("work", queue="lengths é", priority=priority)
    queues = CeleryQueues(app)
    names = ("lengths missing", "lengths é")
    for _ in range(2):
        found = queues.measure(names)
        assert found == {"lengths é": 2, "lengths missing": 0 if broker == "redis" else None}
    queues.close()
    with app.connection_for_write() as connection:
        connection.default_channel.queue_delete("lengths é")
    app.close()


def test_rq(watch, pgnotifier_dsn, pgnotifier_redis_url, eventually):
    """With RQ, the queues of subscriptions are measured."""
    redis = Redis.from_url(pgnotifier_redis_url)
    notifier = Notifier(pgnotifier_dsn, dispatcher=RQDispatcher(redis))
    Queue("images", connection=redis).enqueue(work, "", "", "", 0)
    sub = make_subscription("resize", "images", queue="images")
    report = make_report([], [sub, make_subscription("mail", "mail", queue="celery alone")])
    rq_sub = make_report(
        [],
        [type(sub)("resize", "images", "work", "images", "RQDispatcher", False, False)],  # noqa: FBT003
    )
    watcher = watch(Target(notifier.parameters, (notifier,)))
    assert watcher.is_configured
    eventually(lambda: measured(watcher, report, rq_sub) == {"images": 1})
    redis.close()


def test_nothing_to_ask(watch, pgnotifier_dsn):
    """Without an app, module or project, nothing is asked, and there is no thread."""
    before, notifier = threading.active_count(), Notifier(pgnotifier_dsn)
    watcher = watch(Target(notifier.parameters, (notifier,)))
    assert not watcher.is_configured
    assert watcher.latest([make_report()]) == ()
    assert threading.active_count() <= before


def test_a_broker_that_is_down(watch, pgnotifier_dsn, free_port, eventually):
    """The reason is shown; asking doesn't wait for it."""
    app = make_app(f"redis://:hunter2@localhost:{free_port}/0")
    watcher = watch(Target(Notifier(pgnotifier_dsn).parameters, (), app))
    report = make_report([], [make_subscription("mail", "mail", queue="mail")])
    (found,) = eventually(lambda: watcher.latest([report]))
    assert (found.name, found.kind, found.length) == ("mail", "Celery", None)
    assert found.error
    assert "hunter2" not in found.error
    app.close()


def test_a_broker_that_hangs(watch, pgnotifier_dsn, eventually):
    """Nobody waits longer than for the timeout."""
    with socket.create_server(("localhost", 0)) as silent:
        app = make_app(f"redis://localhost:{silent.getsockname()[1]}/0")
        watcher = watch(Target(Notifier(pgnotifier_dsn).parameters, (), app))
        report = make_report([], [make_subscription("mail", "mail", queue="mail")])
        assert watcher.latest([report]) == ()
        (found,) = eventually(lambda: watcher.latest([report]))
        assert isinstance(found, QueueLength)
        assert "imeout" in found.error or "imed out" in found.error
        app.close()
