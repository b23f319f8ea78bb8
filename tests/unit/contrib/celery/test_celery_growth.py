"""Starts, stops and refusals leave nothing behind that grows with their number."""

import gc
import resource
import secrets
import threading
from pathlib import Path

import pytest
from brokered import callback, own, take_messages
from celery import Celery
from redis import ConnectionPool

from pgnotifier import Batch, Notifier
from pgnotifier.contrib.celery import CeleryDispatcher, carriers_redis
from pgnotifier.contrib.celery.dispatcher import dispatchers_of, notifiers_of
from pgnotifier.contrib.celery.publisher import PublishPath, TaskPublisher
from pgnotifier.contrib.celery.tasks import AppTasks

pytestmark = pytest.mark.slow

CYCLES = 100


@pytest.fixture
def app(request, pgnotifier_redis_url):
    """Return an app with a broker of the kind that a test asks for."""
    kind = getattr(request, "param", "redis")
    url = {
        "redis": pgnotifier_redis_url,
        "redis that is down": "redis://localhost:1/0",
        "rabbitmq that is down": "amqp://u:sesame@localhost:1",
    }.get(kind)
    return Celery(
        "shop",
        broker=url or request.getfixturevalue("rabbitmq").url,
        task_default_queue=secrets.token_hex(8),
        set_as_current=False,
    )


def count(*kinds):
    """Return how many objects of these kinds there are."""
    gc.collect()
    return sum(type(one) in kinds for one in gc.get_objects())  # isinstance() evaluates proxies


def measure():
    """Return the resident megabytes, and how many descriptors and threads there are."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * resource.getpagesize() / 2**20,
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
    )


def start_and_stop(desk, binding):
    """Deliver notifications and close the dispatcher, as a listener does; return the errors."""
    errors = []

    def deliver():
        try:
            desk.deliver(binding, "1", "2", "3", "4")
        except Exception as exc:  # noqa: BLE001 - of whatever type
            errors.append(exc)

    thread = threading.Thread(target=deliver)
    thread.start()
    thread.join()
    desk.dispatcher.close()
    return errors


@pytest.mark.parametrize(
    "app", ["redis", "rabbitmq", "redis that is down", "rabbitmq that is down"], indirect=True
)
def test_starts_and_stops(request, app, make_desk, pgnotifier_redis_url):
    """Memory, descriptors and threads don't grow, whether the broker is up or down."""
    desk = make_desk(app)
    binding = desk.subscribe(callback)
    down = "down" in request.node.callspec.id
    for _ in range(20):  # so that everything that is made once exists
        assert bool(start_and_stop(desk, binding)) is down
    take_messages(pgnotifier_redis_url)
    (held, descriptors, threads), publishers = measure(), count(TaskPublisher)
    for _ in range(CYCLES):
        assert bool(start_and_stop(desk, binding)) is down
    now, more_descriptors, more_threads = measure()
    assert now - held < 5
    assert more_descriptors <= descriptors
    assert more_threads <= threads
    assert count(TaskPublisher) <= publishers
    if app.conf.broker_url.startswith("amqp") and not down:
        with app.connection_for_read() as connection, connection.channel() as channel:
            channel.queue_delete(app.conf.task_default_queue)


def test_refusals(app, make_desk, monkeypatch):
    """When a publish is refused, its connection and everything made for it are freed."""
    desk = make_desk(app)
    binding = desk.subscribe(callback)
    desk.deliver(binding, "1", "2")
    before, publishers = count(ConnectionPool), count(TaskPublisher)

    def refuse(*_):
        raise ConnectionResetError("no")

    monkeypatch.setattr("redis.Redis.lpush", refuse)  # by Celery
    monkeypatch.setattr(carriers_redis, "push_bytes", refuse)
    for _ in range(20):
        with pytest.raises(Exception, match="no"):
            desk.dispatcher.dispatch(Batch(desk.deliveries((binding, "3"))))
    assert count(TaskPublisher) <= publishers
    assert count(ConnectionPool) <= before + 1


@pytest.mark.parametrize("options", [{}, {"countdown": 60}])
@pytest.mark.parametrize("kind", ["callback", "task"])
def test_subscriptions_that_come_and_go(app, make_desk, kind, options):
    """What was learnt of a subscription is freed with it, though the connection is kept."""
    desk = make_desk(app)
    fn = callback if kind == "callback" else own(app)
    before = count(PublishPath)
    for number in range(20):
        binding = desk.subscribe(fn, id=str(number), **options)
        desk.deliver(binding, "1", "2", "3")
        desk.dispatcher.unbind(binding.subscription)
        del binding
    assert count(PublishPath) <= before + 1
    assert not desk.dispatcher._targets
    assert not desk.dispatcher._obstacles


def test_dispatchers_that_nobody_used(app):
    """An app keeps no reference to a dispatcher that has no notifier."""
    before = count(CeleryDispatcher)
    for _ in range(20):
        CeleryDispatcher(app)
    assert count(CeleryDispatcher) == before
    assert AppTasks.of(app).dispatchers == []


@pytest.mark.parametrize("kind", ["callback", "signature"])
def test_notifiers_that_come_and_go(app, kind):
    """An app frees an unsubscribed notifier and its dispatcher once nothing else refers to them."""
    task = app.task(callback, name="task")
    before = count(CeleryDispatcher, Notifier)
    for _ in range(20):
        notifier = Notifier("host=h", dispatcher=CeleryDispatcher(app), autorun=False)
        notifier.subscribe("a", "ch", callback if kind == "callback" else task.s())
        assert notifiers_of(app)[-1] is notifier
        notifier.unsubscribe("a", "ch")
    del notifier
    assert count(CeleryDispatcher, Notifier) == before
    assert dispatchers_of(app) == []


def test_a_notifier_that_nothing_refers_to(app):
    """An app keeps a notifier that nothing else refers to, as long as it has a subscription."""
    task = app.task(callback, name="task")
    Notifier("host=h", dispatcher=CeleryDispatcher(app), autorun=False).subscribe(
        "a", "ch", task.s()
    )
    gc.collect()
    (dispatcher,) = dispatchers_of(app)
    assert dispatcher.notifier.get_channels() == {"ch"}
