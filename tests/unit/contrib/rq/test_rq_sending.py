"""Sending: each job is enqueued once, whether Redis's answers arrive or not."""

import contextlib
import itertools
import os
import threading
import warnings

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
    """Yield a proxy in front of Redis that loses transactions or answers on request."""
    server = Lossy(pgnotifier_redis_url)
    yield server
    server.close()


def payloads(jobs):
    return [job.args[2] for job in jobs()]


def try_to(desk, batch):
    """Dispatch a batch until all of it is acknowledged; return the number of failures."""
    failures = 0
    while batch.remaining:
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
    """Each job is enqueued once and in order, whichever transactions or answers are lost."""
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
    """If a transaction that is still on its way is sent again, only one of the two is executed."""
    client = redis.Redis.from_url(lossy.url)
    desk = make_desk(client)
    batch = desk.batch(*((desk.subscribe(callbacks.callback), str(n)) for n in range(3)))
    lossy.plan = ["late", "late"]
    for _ in range(2):
        with pytest.raises(redis.RedisError):
            desk.dispatcher.dispatch(batch)
    assert batch.remaining == 3
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    lossy.release()
    assert payloads(jobs) == [0, 1, 2]
    client.close()


def test_the_late_one_wins(lossy, make_desk, jobs):
    """If a late transaction is executed before the next attempt, its jobs aren't sent again."""
    client = redis.Redis.from_url(lossy.url)
    desk = make_desk(client)
    batch = desk.batch(*((desk.subscribe(callbacks.callback), str(n)) for n in range(3)))
    lossy.plan = ["late"]
    with pytest.raises(redis.RedisError):
        desk.dispatcher.dispatch(batch)
    lossy.release()
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    assert payloads(jobs) == [0, 1, 2]
    client.close()


def test_unsubscribed_meanwhile(lossy, make_desk, jobs):
    """If jobs were enqueued without an answer, they aren't sent again, even if unsubscribed."""
    client = redis.Redis.from_url(lossy.url)
    desk = make_desk(client)
    kept, gone = desk.subscribe(callbacks.callback, id="k"), desk.subscribe(callbacks.other, id="g")
    batch = desk.batch((gone, "1"), (kept, "2"), (gone, "3"))
    lossy.plan = ["unanswered"]
    with pytest.raises(redis.RedisError):
        desk.dispatcher.dispatch(batch)
    gone.live = False
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    assert payloads(jobs) == [1, 2, 3]
    client.close()


def test_nobody_there(make_desk, free_port):
    """While Redis is down, nothing in a batch is acknowledged."""
    desk = make_desk(f"redis://localhost:{free_port}")
    batch = desk.batch((desk.subscribe(callbacks.callback), "1"))
    with pytest.raises(redis.ConnectionError):
        desk.dispatcher.dispatch(batch)
    assert batch.remaining == 1


@pytest.mark.slow
def test_portions(desk, client, jobs):
    """A large batch is sent in transactions of 500 jobs, in order."""
    before = client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"]
    assert not desk.deliver(desk.subscribe(callbacks.callback), *map(str, range(1201)))
    assert client.info("commandstats")["cmdstat_exec"]["calls"] - before == 3
    assert payloads(jobs) == list(range(1201))


def test_two_servers(desk, client, jobs, pgnotifier_private_valkey):
    """Queues on two servers get their own jobs, in order."""
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
    """With `is_async=False`, jobs run in the listener, and a failing job isn't reported."""
    desk = make_desk(Queue(connection=client, is_async=False))
    del callbacks.called[:]
    good, bad = desk.subscribe(callbacks.callback), desk.subscribe(callbacks.failing, id="bad")
    batch = desk.batch((good, "1"), (bad, "2"), (good, "3"))
    desk.dispatcher.dispatch(batch)
    assert [args[2] for args in callbacks.called] == [1, 3]
    assert not batch.remaining
    assert desk.reported == []


def test_one_notifier_each(desk):
    """A dispatcher serves one notifier; attaching a second one is refused."""
    first, second = Notifier("dbname=a"), Notifier("dbname=b")
    desk.dispatcher.attach(first)
    desk.dispatcher.attach(first)
    with pytest.raises(ConfigurationError, match="give each notifier its own RQDispatcher"):
        desk.dispatcher.attach(second)


def test_starts_nothing(pgnotifier_dsn, client, make_notifier, db):
    """Subscribing doesn't start the listener, because workers import the same module."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=RQDispatcher(client))
    notifier.subscribe("a", "orders", callbacks.callback)
    assert not notifier.is_running()
    assert db.listening() == []


# --- many queues --------------------------------------------------------------------------------


def test_many_queues(desk, client):
    """Jobs for many queues are sent in one transaction, with one push per end of a queue."""
    bindings = [desk.subscribe(callbacks.callback, id=f"{n}", queue=f"q{n}") for n in range(8)]
    front = desk.subscribe(callbacks.callback, id="front", queue="q0", at_front=True)
    batch = desk.batch(*(([*bindings, front][n % 9], str(n)) for n in range(450)))
    client.config_resetstat()
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    stats = client.info("commandstats")
    calls = {name: stats[f"cmdstat_{name}"]["calls"] for name in ("exec", "rpush", "lpush")}
    assert calls == {"exec": 1, "rpush": 8, "lpush": 1}
    for number in range(8):
        expected = list(range(number, 450, 9))
        if number == 0:
            expected = [*reversed(range(8, 450, 9)), *expected]
        assert payloads(lambda n=number: Queue(f"q{n}", connection=client).jobs) == expected


@pytest.fixture
def second(pgnotifier_private_valkey):
    """Yield a connection to a second server. Some tests limit its memory."""
    client = redis.Redis.from_url(
        pgnotifier_private_valkey.url, retry=Retry(NoBackoff(), 0), socket_timeout=10
    )
    yield client
    client.close()


def test_taking_turns_between_servers(desk, client, second, jobs):
    """If jobs alternate between servers, each server gets its own in one transaction."""
    bindings = [
        desk.subscribe(callbacks.callback, id="here"),
        desk.subscribe(callbacks.callback, id="there", queue=Queue(connection=second)),
    ]
    client.config_resetstat()
    second.config_resetstat()
    desk.dispatcher.dispatch(desk.batch(*((bindings[n % 2], str(n)) for n in range(100))))
    for server, first in ((client, 0), (second, 1)):
        assert server.info("commandstats")["cmdstat_exec"]["calls"] == 1
        assert payloads(lambda s=server: Queue(connection=s).jobs) == list(range(first, 100, 2))


def test_one_of_two_servers_refuses(desk, second, jobs):
    """While one server refuses its jobs, the other server's jobs aren't enqueued again."""
    bindings = [
        desk.subscribe(callbacks.callback, id="here"),
        desk.subscribe(callbacks.callback, id="there", queue=Queue(connection=second)),
    ]
    desk.deliver(bindings[1], "-1")  # so that the dispatcher learns how jobs are made
    second.config_set("maxmemory", 1)
    batch = desk.batch(*((bindings[n % 2], str(n)) for n in range(10)))
    try:
        for _ in range(3):
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                desk.dispatcher.dispatch(batch)
            assert batch.rest()[0].notification.raw == "1"
        assert len(Queue(connection=second).job_ids) == 1
    finally:
        second.config_set("maxmemory", 0)
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    assert not desk.reported
    assert payloads(jobs) == list(range(0, 10, 2))
    assert payloads(lambda: Queue(connection=second).jobs) == [-1, *range(1, 10, 2)]


# --- what Redis refuses within a transaction ----------------------------------------------------


@pytest.mark.parametrize("answer", ["answered", "unanswered"])
def test_a_queue_that_is_not_a_list(lossy, make_desk, client, jobs, answer):
    """If a queue's key isn't a list, its jobs are reported and removed, and others are enqueued."""
    connection = redis.Redis.from_url(lossy.url, retry=Retry(NoBackoff(), 0))
    desk = make_desk(connection)
    good = desk.subscribe(callbacks.callback, id="good")
    bad = desk.subscribe(callbacks.callback, id="bad", queue="taken")
    client.set("rq:queue:taken", "by something else")
    batch = desk.batch(*(((good, bad)[n % 2], str(n)) for n in range(10)))
    lossy.plan = ["unanswered"] if answer == "unanswered" else []
    assert try_to(desk, batch) == len([answer] if answer == "unanswered" else [])
    assert payloads(jobs) == [0, 2, 4, 6, 8]
    assert [str(exc)[:9] for exc in desk.reported] == ["WRONGTYPE"] * 5
    assert len(client.keys("rq:job:*")) == 5
    assert client.get("rq:queue:taken") == b"by something else"
    connection.close()


def test_leftovers_that_cannot_be_removed_at_once(desk, client, monkeypatch):
    """If the remains of refused jobs can't be removed at once, the next dispatch removes them."""
    bad = desk.subscribe(callbacks.callback, id="bad", queue="taken")
    client.set("rq:queue:taken", "by something else")
    with monkeypatch.context() as patch:
        execute = redis.client.Pipeline.execute

        def losing(self, raise_on_error=True):
            if not self.explicit_transaction:
                raise redis.ConnectionError("lost")
            return execute(self, raise_on_error)

        patch.setattr(redis.client.Pipeline, "execute", losing)
        assert not desk.deliver(bad, "1")
        assert len(client.keys("rq:job:*")) == 1
    assert not desk.deliver(bad, "2")
    assert not client.keys("rq:job:*")
    assert len(desk.reported) == 2


def test_a_list_of_queues_that_is_none(desk, client, jobs, caplog):
    """If RQ's set of queues can't be extended, jobs are enqueued, and one warning is logged."""
    client.set("rq:queues", "something else")
    for number in (1, 2):
        assert not desk.deliver(desk.subscribe(callbacks.callback), str(number))
    assert payloads(jobs) == [1, 2]
    assert not desk.reported
    (record,) = [one for one in caplog.records if one.name == "pgnotifier.rq"]
    assert "Redis refused SADD rq:queues: WRONGTYPE" in record.getMessage()


def test_a_key_of_a_job_that_is_taken(desk, client, jobs, monkeypatch):
    """If the key of a job is taken, the job is reported and not enqueued, and the key is kept."""
    monkeypatch.setattr("pgnotifier.contrib.rq.targets.secrets.token_hex", lambda _: "0")
    client.set("rq:job:a-0", "something else")
    binding, other = desk.subscribe(callbacks.callback), desk.subscribe(callbacks.other, id="b")
    batch = desk.batch((binding, "1"), (other, "2"))
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    assert payloads(jobs) == [2]
    assert [str(exc)[:9] for exc in desk.reported] == ["WRONGTYPE"]
    assert client.get("rq:job:a-0") == b"something else"


def test_a_server_without_memory(make_desk, second):
    """If Redis refuses a whole transaction, nothing is enqueued, and the next attempt succeeds."""
    desk = make_desk(second)
    binding = desk.subscribe(callbacks.callback)
    desk.deliver(binding, "0")
    batch = desk.batch(*((binding, str(n)) for n in (1, 2)))
    second.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            desk.dispatcher.dispatch(batch)
        assert batch.remaining == 2
        assert len(second.keys("rq:job:*")) == 1
    finally:
        second.config_set("maxmemory", 0)
    desk.dispatcher.dispatch(batch)
    assert payloads(lambda: Queue(connection=second).jobs) == [0, 1, 2]


# --- several senders ----------------------------------------------------------------------------


def in_a_fork(work):
    """Do something in a forked child, and wait for its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads don't matter
        pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_fork_between_two_tries(lossy, make_desk, jobs):
    """A forked child's transactions aren't mistaken for its parent's, even after a failure."""
    client = redis.Redis.from_url(lossy.url, retry=Retry(NoBackoff(), 0))
    desk = make_desk(client)
    binding = desk.subscribe(callbacks.callback)
    desk.deliver(binding, "1")
    in_a_fork(lambda: desk.deliver(binding, "2"))
    lossy.plan = ["lost"]
    batch = desk.batch((binding, "3"))
    assert try_to(desk, batch) == 1
    assert payloads(jobs) == [1, 2, 3]
    client.close()


def test_a_fork_amid_a_failure(lossy, make_desk, jobs):
    """A forked child doesn't take over its parent's unanswered transactions."""
    client = redis.Redis.from_url(lossy.url, retry=Retry(NoBackoff(), 0))
    desk = make_desk(client)
    binding = desk.subscribe(callbacks.callback)
    batch = desk.batch((binding, "1"))
    lossy.plan = ["unanswered"]
    with pytest.raises(redis.RedisError):
        desk.dispatcher.dispatch(batch)
    in_a_fork(lambda: desk.deliver(binding, "2"))
    desk.dispatcher.dispatch(batch)
    assert payloads(jobs) == [1, 2]
    client.close()


def test_two_threads_of_one_dispatcher(lossy, make_desk, jobs):
    """A thread doesn't settle the unanswered transactions of another thread."""
    client = redis.Redis.from_url(lossy.url, retry=Retry(NoBackoff(), 0))
    desk = make_desk(client)
    binding = desk.subscribe(callbacks.callback)
    batch = desk.batch((binding, "1"))
    lossy.plan = ["unanswered"]
    with pytest.raises(redis.RedisError):
        desk.dispatcher.dispatch(batch)
    thread = threading.Thread(target=desk.deliver, args=(binding, "2"))
    thread.start()
    thread.join(30)
    desk.dispatcher.dispatch(batch)
    assert payloads(jobs) == [1, 2]
    client.close()
