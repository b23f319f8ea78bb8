"""Sending: every job once, whatever becomes of Redis's answers."""

import itertools

import callbacks
import pytest
import redis
from lossy import Lossy
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQDispatcher, dispatcher
from pgnotifier.errors import ConfigurationError


@pytest.fixture
def lossy(pgnotifier_redis_url):
    """Yield a server in front of Redis that loses what it is told to lose."""
    server = Lossy(pgnotifier_redis_url)
    yield server
    server.close()


def payloads(jobs):
    return [job.args[2] for job in jobs()]


def try_to(desk, batch):
    """Dispatch a batch as a deliverer does: again after a failure."""
    failures = 0
    while batch:
        try:
            desk.dispatcher.dispatch(batch)
        except redis.RedisError:
            failures += 1
    return failures


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize(
    "plan",
    [
        plan
        for length in (1, 2, 3)
        for plan in itertools.product(["lost", "unanswered", None], repeat=length)
        if plan[0] is not None
    ],
    ids=lambda plan: "-".join(map(str, plan)),
)
def test_lost_answers(lossy, make_desk, jobs, monkeypatch, plan, retries):
    """Each job is there once and in order, whichever transactions or answers are lost."""
    monkeypatch.setattr(dispatcher, "PORTION", 2)
    client = redis.Redis.from_url(lossy.url, retry=Retry(NoBackoff(), retries))
    desk = make_desk(client)
    batch = desk.batch(*((desk.subscribe(callbacks.callback), str(n)) for n in range(7)))
    lossy.plan = list(plan)
    assert try_to(desk, batch) >= 1
    assert not lossy.plan
    assert payloads(jobs) == list(range(7))
    client.close()


def test_a_transaction_that_comes_late(lossy, make_desk, jobs):
    """One still on its way when it is sent again is made by one of the two."""
    client = redis.Redis.from_url(lossy.url)
    desk = make_desk(client)
    batch = desk.batch(*((desk.subscribe(callbacks.callback), str(n)) for n in range(3)))
    lossy.plan = ["late", "late"]
    for _ in range(2):
        with pytest.raises(redis.RedisError):
            desk.dispatcher.dispatch(batch)
    assert len(batch) == 3
    desk.dispatcher.dispatch(batch)
    assert not batch
    lossy.release()
    assert payloads(jobs) == [0, 1, 2]
    client.close()


def test_the_late_one_wins(lossy, make_desk, jobs):
    """What was made late, before it is sent again, isn't sent again."""
    client = redis.Redis.from_url(lossy.url)
    desk = make_desk(client)
    batch = desk.batch(*((desk.subscribe(callbacks.callback), str(n)) for n in range(3)))
    lossy.plan = ["late"]
    with pytest.raises(redis.RedisError):
        desk.dispatcher.dispatch(batch)
    lossy.release()
    desk.dispatcher.dispatch(batch)
    assert not batch
    assert payloads(jobs) == [0, 1, 2]
    client.close()


def test_unsubscribed_meanwhile(lossy, make_desk, jobs):
    """What was enqueued without an answer is taken off, and what was unsubscribed is, too."""
    client = redis.Redis.from_url(lossy.url)
    desk = make_desk(client)
    kept, gone = desk.subscribe(callbacks.callback, id="k"), desk.subscribe(callbacks.other, id="g")
    batch = desk.batch((gone, "1"), (kept, "2"), (gone, "3"))
    lossy.plan = ["unanswered"]
    with pytest.raises(redis.RedisError):
        desk.dispatcher.dispatch(batch)
    gone.live = False
    desk.dispatcher.dispatch(batch)
    assert not batch
    assert payloads(jobs) == [1, 2, 3]
    client.close()


def test_nobody_there(make_desk, free_port):
    """While Redis is away, a batch stays as it is."""
    desk = make_desk(f"redis://localhost:{free_port}")
    batch = desk.batch((desk.subscribe(callbacks.callback), "1"))
    with pytest.raises(redis.ConnectionError):
        desk.dispatcher.dispatch(batch)
    assert len(batch) == 1


def test_portions(desk, client, jobs):
    """A large batch goes in transactions of 500 jobs, in order."""
    before = client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"]
    assert not desk.deliver(desk.subscribe(callbacks.callback), *map(str, range(1201)))
    assert client.info("commandstats")["cmdstat_exec"]["calls"] - before == 3
    assert payloads(jobs) == list(range(1201))


def test_two_servers(desk, client, jobs, pgnotifier_private_valkey):
    """Queues of several servers get what is theirs, in order."""
    with redis.Redis.from_url(pgnotifier_private_valkey.url) as second:
        queue = Queue(connection=second)
        here = desk.subscribe(callbacks.callback, id="h")
        there = desk.subscribe(callbacks.callback, id="t", queue=queue)
        batch = desk.batch(*((there if n % 3 else here, str(n)) for n in range(10)))
        desk.dispatcher.dispatch(batch)
        assert payloads(jobs) == [0, 3, 6, 9]
        assert [job.args[2] for job in queue.jobs] == [1, 2, 4, 5, 7, 8]


def test_one_that_cannot_be_written(client, make_desk):
    """A job that can't be serialized is reported, and those around it are enqueued."""

    class Choosy(JSONSerializer):
        @staticmethod
        def dumps(*args, **kwargs):
            if "unlucky" in repr(args):
                raise TypeError("not this one")
            return JSONSerializer.dumps(*args, **kwargs)

    queue = Queue(connection=client, serializer=Choosy)
    desk = make_desk(queue)
    binding = desk.subscribe(callbacks.callback)
    assert not desk.deliver(binding, "1", "unlucky", "2", "unlucky")
    assert [job.args[3] for job in queue.jobs] == [1, 2]
    assert [str(exc) for exc in desk.reported] == ["not this one"] * 2


def test_a_queue_that_runs_jobs_itself(client, make_desk):
    """With `is_async=False`, jobs run in the listener; one that fails is RQ's to tell of."""
    desk = make_desk(Queue(connection=client, is_async=False))
    del callbacks.called[:]
    good, bad = desk.subscribe(callbacks.callback), desk.subscribe(callbacks.failing, id="bad")
    batch = desk.batch((good, "1"), (bad, "2"), (good, "3"))
    desk.dispatcher.dispatch(batch)
    assert [args[2] for args in callbacks.called] == [1, 3]
    assert not batch
    assert desk.reported == []


def test_one_notifier_each(desk):
    """A dispatcher serves one notifier; a second one is told."""
    first, second = Notifier("dbname=a"), Notifier("dbname=b")
    desk.dispatcher.attach(first)
    desk.dispatcher.attach(first)
    with pytest.raises(ConfigurationError, match="give each notifier an RQDispatcher of its own"):
        desk.dispatcher.attach(second)


def test_starts_nothing(pgnotifier_dsn, client, make_notifier, db):
    """To subscribe doesn't start the listener: workers import the same module."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=RQDispatcher(client))
    notifier.subscribe("a", "orders", callbacks.callback)
    assert not notifier.is_running()
    assert db.listening() == []
