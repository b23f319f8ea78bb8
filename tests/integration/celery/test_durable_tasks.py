"""Tasks made of entries of the durable log: their ids, and what their headers say."""

import json

import pytest
from celery import Celery
from redis import Redis

from pgnotifier import current_entry
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


ENTRIES = """
import pgnotifier

dispatcher = CeleryDispatcher(app)
notifier = Notifier(os.environ["DSN"], dispatcher=dispatcher, decoder=lambda text: (text,))

def note(what):
    entry = pgnotifier.current_entry()
    write(what, entry and (entry.id, entry.key, entry.attempt, entry.payload, entry.pid))

@app.task(name="child")
def child(*given):
    note("child")

@notifier.on("paid", id="callback", durable=True, start="oldest")
def callback(id, channel, payload, pid):
    note("callback")

TASK = {"bind": True, "max_retries": 1}

@notifier.on("paid", id="bound", durable=True, start="oldest", task=TASK)
def bound(task, id, channel, payload, pid):
    note("bound")
    child.delay()
    if not task.request.retries:
        raise task.retry(countdown=0)

@notifier.on("paid", id="batch", durable=True, start="oldest", batch=(2, 60))
def batch(id, channel, payload, pid):
    note("batch")

@notifier.on("plain", id="volatile")
def volatile(id, channel, payload, pid):
    note("volatile")

@app.task(name="own")
def own(*given):
    note("own")

@app.task(name="immutable")
def immutable():
    note("immutable")

@app.task(name="next")
def follow():
    note("next")

notifier.subscribe("own", "paid", own, durable=True, start="oldest")
canvas = chain(immutable.si(), follow.si())
notifier.subscribe("immutable", "paid", canvas, durable=True, start="oldest")
"""


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_the_entry_of_a_task(log, open_shop, pool):
    """`current_entry()` is the entry in callbacks' tasks and in the user's own."""
    shop = open_shop(ENTRIES)
    shop.worker("-P", pool)
    shop.listener()
    first, second = (log.publish("paid", n, key=f"k{n}")[0] for n in (1, 2))
    log.notify("plain", 1)
    expected = [((first, "k1", 1, ("1",), 0),), ((second, "k2", 1, ("2",), 0),)]
    assert sorted(shop.wait_written("callback", 2)) == expected
    assert sorted(shop.wait_written("own", 2)) == expected
    assert sorted(shop.wait_written("bound", 4)) == sorted(2 * expected)
    assert shop.wait_written("batch", 1) == [((second, "k2", 1, [("1",), ("2",)], 0),)]
    bare = [((first, "k1", 1, None, 0),), ((second, "k2", 1, None, 0),)]
    assert sorted(shop.wait_written("immutable", 2)) == bare
    assert shop.wait_written("next", 2) == 2 * [(None,)]
    assert shop.wait_written("child", 4) == 4 * [(None,)]
    assert shop.wait_written("volatile", 1) == [(None,)]


def test_the_entry_of_an_eager_task(log, make_notifier, eventually):
    """An app that runs its tasks at once finds the entry, too."""
    app = Celery("eager", set_as_current=False)
    app.conf.task_always_eager = True
    notifier, seen = make_notifier(log.dsn, dispatcher=CeleryDispatcher(app)), []
    notifier.subscribe("invoice", "paid", lambda *_: seen.append(current_entry()), durable=True)
    notifier.start()
    (number,) = log.publish("paid", 1, key="k")
    eventually(lambda: seen)
    assert [(entry.id, entry.key, entry.payload) for entry in seen] == [(number, "k", 1)]
