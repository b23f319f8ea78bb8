"""A broker goes away and comes back: nothing is lost, and publishing resumes in order."""

import base64
import itertools
import json
import os
import signal
import threading
import time

import pytest
import redis
from celery import Celery, chain, chord, group

from pgnotifier._runtime.backoff import Backoff
from pgnotifier.contrib.celery import CeleryDispatcher


class Queue:
    """The tasks in the broker's queue."""

    def __init__(self, server):
        self._server = server

    def __len__(self):
        with redis.Redis.from_url(self._server.url) as client:
            return client.llen("celery")

    def tasks(self):
        """Return the ids and payloads of all tasks, in the order in which they were published."""
        with redis.Redis.from_url(self._server.url) as client:
            messages = [json.loads(message) for message in client.lrange("celery", 0, -1)]
        return [
            (message["headers"]["id"], json.loads(base64.b64decode(message["body"]))[0][2])
            for message in reversed(messages)
        ]

    def payloads(self):
        """Return the payloads alone."""
        return [payload for _, payload in self.tasks()]


@pytest.fixture
def broker(pgnotifier_private_valkey):
    """Return a broker for this test alone, which keeps what it has acknowledged."""
    return pgnotifier_private_valkey


@pytest.fixture
def queue(broker):
    """Return the broker's queue."""
    return Queue(broker)


@pytest.fixture
def app(broker):
    """Return an app with that broker."""
    return Celery("shop", broker=broker.url, set_as_current=False)


@pytest.fixture
def publish(app, pgnotifier_dsn, make_notifier):
    """Return a running notifier that enqueues the notifications of the channel `tasks`."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("id", "tasks", print)
    notifier.start()
    return notifier


class Load:
    """A thread that sends numbers as notifications until the end of the `with` block."""

    def __init__(self, db):
        self.sent = 0
        self._db = db
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()

    def _run(self):
        for number in itertools.count():
            if self._ending.wait(0.001):
                return
            self._db.notify("tasks", number)
            self.sent = number + 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_nothing_is_lost_while_the_broker_is_away(
    broker, queue, publish, db, eventually, monkeypatch, end
):
    """All notifications are enqueued in order, also those received while there was no broker."""
    monkeypatch.setattr(Backoff, "LAST", 0.5)
    with Load(db) as load:
        for _ in range(2):
            there = len(queue)
            eventually(lambda there=there: len(queue) > there + 50)
            getattr(broker, end)()
            eventually(lambda before=load.sent: load.sent > before + 100)
            eventually(lambda: publish.status().dispatchers[0].retrying)
            broker.start()
            eventually(lambda: not publish.status().dispatchers[0].retrying)
    eventually(lambda: publish.status().dispatchers[0].delivered == load.sent)
    # The broker may have ended before it acknowledged tasks: these come again, with the same ids.
    once = list(dict.fromkeys(queue.tasks()))
    assert [number for _, number in once] == list(range(load.sent))
    assert publish.status().errors == 0


def test_the_first_publish_may_fail_too(broker, queue, publish, db, eventually):
    """The dispatcher also waits for a broker that isn't up when it publishes its first task."""
    broker.stop()
    for number in range(3):
        db.notify("tasks", number)
    eventually(lambda: publish.status().dispatchers and publish.status().dispatchers[0].retrying)
    broker.start()
    eventually(lambda: len(queue) == 3)
    assert queue.payloads() == [0, 1, 2]


def audit(*_):
    pass


def test_canvases_wait_as_well(broker, queue, app, publish, db, eventually):
    """Canvases also wait for the broker, although Celery publishes them on other connections."""
    task = app.task(audit, name="shop.task", ignore_result=True)
    publish.subscribe("chain", "tasks", chain(task.s(), task.si()))
    publish.subscribe("group", "tasks", group(task.s(), task.s()))
    db.notify("tasks", 0)
    eventually(lambda: len(queue) == 4)
    broker.stop()
    db.notify("tasks", 1)
    db.notify("tasks", 2)
    eventually(lambda: publish.status().dispatchers[0].retrying)
    broker.start()
    eventually(lambda: publish.status().dispatchers[0].delivered == 3 * 3)
    assert sorted(queue.payloads()) == [0] * 4 + [1] * 4 + [2] * 4
    assert publish.status().errors == 0


def test_stopping_is_bounded_while_the_broker_is_silent(broker, queue, publish, db, eventually):
    """`stop` returns in time if the broker never answers, and doesn't report an error."""
    db.notify("tasks", 0)
    eventually(lambda: len(queue) == 1)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        db.notify("tasks", 1)
        eventually(lambda: publish.status().dispatchers[0].waiting == 1)
        begun = time.monotonic()
        assert publish.stop(timeout=0.5) == 1
        assert time.monotonic() - begun < 3
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert publish.status().errors == 0


def test_a_silent_broker_is_given_up_and_tried_again(
    broker, queue, publish, db, eventually, monkeypatch
):
    """A broker that doesn't answer in time counts as lost; tasks are published once it answers."""
    monkeypatch.setattr("pgnotifier.contrib.celery.broker.ANSWER_TIMEOUT", 0.3)
    db.notify("tasks", 0)
    eventually(lambda: len(queue) == 1)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        db.notify("tasks", 1)
        eventually(lambda: publish.status().dispatchers[0].retrying)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    eventually(lambda: publish.status().dispatchers[0].waiting == 0)
    assert sorted(set(queue.payloads())) == [0, 1]


def test_the_listener_goes_on_after_its_stop_gave_up(broker, queue, publish, db, eventually):
    """After `stop` gave up on a stuck thread, a new start connects and publishes without it."""
    db.notify("tasks", 0)
    eventually(lambda: len(queue) == 1)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        db.notify("tasks", 1)
        eventually(lambda: publish.status().dispatchers[0].waiting == 1)
        publish.stop(timeout=0.1)
        publish.start()
        db.notify("tasks", 2)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    eventually(lambda: 2 in queue.payloads())
    assert publish.status().errors == 0


def test_results_that_nobody_asks_for_are_not_kept(broker, app, publish, db, eventually, queue):
    """The result backend neither remembers nor subscribes to the results of enqueued tasks."""
    app.conf.update(result_backend=broker.url, result_backend_thread_safe=True)
    task = app.task(audit, name="shop.task")
    canvases = task.s(), task.s() | task.s(), group(task.s()), chord([task.s()] * 2, task.s())
    for canvas in canvases:
        publish.subscribe(canvas.task, "canvases", canvas)
    for number in range(5):
        db.notify("canvases", number)
    eventually(lambda: len(queue) == 5 * 5)
    eventually(lambda: publish.status().dispatchers[0].waiting == 0)
    eventually(lambda: not app.backend.result_consumer.subscribed_to)
    assert not any(app.backend._pending_results)
    assert publish.status().errors == 0


def test_a_password_is_not_logged(broker, pgnotifier_dsn, make_notifier, db, eventually, caplog):
    """The broker's password isn't logged, not even if the broker refuses it."""
    with redis.Redis.from_url(broker.url) as client:
        client.config_set("requirepass", "open")
    url = broker.url.replace("redis://", "redis://:sesame@")
    app = Celery("shop", broker=url, set_as_current=False)
    notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("id", "tasks", print)
    notifier.start()
    db.notify("tasks", 0)
    eventually(lambda: "can't deliver" in caplog.text)
    notifier.stop(timeout=0.1)
    assert "sesame" not in caplog.text
