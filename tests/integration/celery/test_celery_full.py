"""Full brokers refuse tasks, or stop reading; nothing is lost."""

import os
import subprocess

import pytest
import redis
from celery import Celery
from kombu import Connection

from pgnotifier._runtime.backoff import Backoff
from pgnotifier.contrib.celery import CeleryDispatcher, carriers_amqp

LONG = "x" * 5000


@pytest.fixture
def publish(pgnotifier_dsn, make_notifier, monkeypatch, caplog):
    """Return a function that starts a notifier that enqueues the channel `tasks`."""
    monkeypatch.setattr(Backoff, "LAST", 0.5)

    def start(url):
        app = Celery("shop", broker=url, set_as_current=False)
        notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app))
        notifier.subscribe("id", "tasks", print)
        notifier.start()
        return notifier

    return start


def take_all(url, count):
    """Take tasks off a queue until `count` different ones were taken; return their numbers."""
    numbers = {}
    with Connection(url) as connection, connection.SimpleQueue("celery") as queue:
        while len(numbers) < count:
            message = queue.get(timeout=30)
            number, *_ = message.payload[0][2]
            numbers[message.headers["id"]] = number
            message.ack()
    return list(numbers.values())


def send(db, first, last):
    """Send notifications with numbered payloads."""
    for number in range(first, last):
        db.notify("tasks", f'[{number}, "{LONG}"]')


def test_no_memory(pgnotifier_private_valkey, publish, db, eventually, caplog):
    """Tasks that `noeviction` refuses are enqueued in order once there is memory; it warns once."""
    server = pgnotifier_private_valkey
    with redis.Redis.from_url(server.url) as client:
        notifier = publish(server.url)
        send(db, 0, 10)
        eventually(lambda: client.llen("celery") == 10)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)
        send(db, 10, 200)
        eventually(lambda: notifier.status().dispatchers[0].retrying)
        enqueued = client.llen("celery")
        assert 10 <= enqueued < 200
        assert notifier.status().state == "listening"
        client.config_set("maxmemory", 0)
        eventually(lambda: notifier.status().dispatchers[0].delivered == 200)
    assert take_all(server.url, 200) == list(range(200))
    assert notifier.status().errors == 0
    (warned,) = caplog.messages
    assert "maxmemory" in warned


@pytest.mark.gate  # test_celery_amqp.py has a broker that does not confirm, in less time
def test_no_disk(breakable_rabbitmq, publish, db, eventually, monkeypatch, caplog):
    """Tasks wait while RabbitMQ's disk is full, and are enqueued in order afterwards."""
    monkeypatch.setattr(carriers_amqp, "ANSWER_TIMEOUT", 1.0)
    server = breakable_rabbitmq

    def limit_disk(what):
        environment = {**os.environ, **server._env(), "RABBITMQ_LOGS": ""}
        subprocess.run(
            [server._program.with_name("rabbitmqctl"), "set_disk_free_limit", what],
            env=environment,
            check=True,
            timeout=150,
            capture_output=True,
        )

    notifier = publish(server.url)
    send(db, 0, 10)
    eventually(lambda: notifier.status().dispatchers[0].delivered == 10)
    limit_disk("1000000GB")
    try:
        send(db, 10, 200)
        eventually(lambda: notifier.status().dispatchers[0].retrying)
        assert notifier.status().dispatchers[0].delivered == 10
        assert notifier.status().state == "listening"
    finally:
        limit_disk("1MB")
    eventually(lambda: notifier.status().dispatchers[0].delivered == 200, 60)
    assert take_all(server.url, 200) == list(range(200))
    assert notifier.status().errors == 0
    (warned,) = caplog.messages
    assert "has not confirmed" in warned
