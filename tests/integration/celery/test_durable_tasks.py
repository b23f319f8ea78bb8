"""Tasks made of entries of the durable log: their ids, and what their headers say."""

import json

import pytest
from celery import Celery
from redis import Redis

from pgnotifier.contrib.celery import CeleryDispatcher


def work(id, channel, payload, pid):
    """Do nothing: no worker runs."""


@pytest.fixture
def queue(broker, request):
    """Return a connection to the broker, and the name of a queue of this test."""
    with Redis.from_url(broker) as connection:
        yield connection, f"durable-{request.node.name}"


@pytest.mark.parametrize("options", [{}, {"batch": (2, 60.0)}], ids=["single", "batches"])
def test_a_repeated_entry_has_the_same_task_id(
    log, make_notifier, broker, queue, eventually, options
):
    """A task's id is made of entry and subscription; the header has id, key, time and attempt."""
    connection, name = queue
    app = Celery("durable", broker=broker, set_as_current=False)
    notifier = make_notifier(log.dsn, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("invoice", "paid", work, durable=True, queue=name, **options)
    notifier.start()
    ids = [log.publish("paid", n, key=f"k{n}")[0] for n in range(4)]

    def headers(count):
        eventually(lambda: connection.llen(name) >= count)
        found = [json.loads(text)["headers"] for text in connection.lrange(name, 0, -1)]
        connection.delete(name)
        return found[::-1]

    count = 2 if options else 4
    before = headers(count)
    assert len({one["id"] for one in before}) == count
    origins = [one["pgnotifier"] for one in before]
    assert [one["id"] for one in origins] == ids[1::2] if options else ids
    assert origins[-1]["key"] == "k3"
    assert origins[-1]["attempt"] == 1
    assert origins[-1]["published_at"].startswith("20")
    notifier.seek("invoice", "paid", "oldest")
    assert [one["id"] for one in headers(count)] == [one["id"] for one in before]
    log.notify("plain")
    notifier.subscribe("plain", "plain", work, queue=name)
    log.notify("plain", 1)
    (plain,) = headers(1)
    assert set(plain["pgnotifier"]) == {"channel", "pid", "received_at"}
