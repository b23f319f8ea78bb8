"""Sending: every job once, whatever becomes of Redis's answers."""

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
    """Yield a server in front of Redis that loses what it is told to lose."""
    server = Lossy(pgnotifier_redis_url)
    yield server
    server.close()


def payloads(jobs):
    return [job.args[2] for job in jobs()]


def try_to(desk, batch):
    """Dispatch a batch as a deliverer does: again after a failure."""
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
    assert batch.remaining == 3
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
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
    assert not batch.remaining
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
    assert not batch.remaining
    assert payloads(jobs) == [1, 2, 3]
    client.close()


def test_nobody_there(make_desk, free_port):
    """While Redis is away, a batch stays as it is."""
    desk = make_desk(f"redis://localhost:{free_port}")
    batch = desk.batch((desk.subscribe(callbacks.callback), "1"))
    with pytest.raises(redis.ConnectionError):
        desk.dispatcher.dispatch(batch)
    assert batch.remaining == 1


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
    assert not batch.remaining
    assert desk.reported == []


def test_one_notifier_each(desk):
    """A dispatcher serves one notifier; a second one is told."""
    first, second = Notifier("dbname=a"), Notifier("dbname=b")
    desk.dispatcher.attach(first)
    desk.dispatcher.attach(first)
    with pytest.raises(ConfigurationError, match="give each notifier its own RQDispatcher"):
        desk.dispatcher.attach(second)


def test_starts_nothing(pgnotifier_dsn, client, make_notifier, db):
    """To subscribe doesn't start the listener: workers import the same module."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=RQDispatcher(client))
    notifier.subscribe("a", "orders", callbacks.callback)
    assert not notifier.is_running()
    assert db.listening() == []


# --- many queues --------------------------------------------------------------------------------


def test_many_queues(desk, client):
    """Jobs of any number of queues go in one transaction, with one push for each, in order."""
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
    """Yield a connection to another server, whose memory is limited by some tests."""
    client = redis.Redis.from_url(
        pgnotifier_private_valkey.url, retry=Retry(NoBackoff(), 0), socket_timeout=10
    )
    yield client
    client.close()


def test_taking_turns_between_servers(desk, client, second, jobs):
    """Each server gets its jobs in one transaction."""
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
    """Jobs of the other one aren't enqueued again while those of the first are tried again."""
    bindings = [
        desk.subscribe(callbacks.callback, id="here"),
        desk.subscribe(callbacks.callback, id="there", queue=Queue(connection=second)),
    ]
    desk.deliver(bindings[1], "-1")  # which learns how jobs are made
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
def test_a_queue_that_is_no_list(lossy, make_desk, client, jobs, answer):
    """Its jobs are reported, and nothing is left of them; all others are enqueued, once."""
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
    """What is left of jobs that aren't enqueued is removed with the next ones, at the latest."""
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
    """Where RQ's list of queues can't be added to, jobs are enqueued; it is warned of once."""
    client.set("rq:queues", "something else")
    for number in (1, 2):
        assert not desk.deliver(desk.subscribe(callbacks.callback), str(number))
    assert payloads(jobs) == [1, 2]
    assert not desk.reported
    (record,) = [one for one in caplog.records if one.name == "pgnotifier.rq"]
    assert "Redis refused SADD rq:queues: WRONGTYPE" in record.getMessage()


def test_a_key_of_a_job_that_is_taken(desk, client, jobs, monkeypatch):
    """A job whose fields can't be written is on no queue, and whose key it is stays."""
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
    """A refusal of the whole transaction leaves nothing of it, and is tried again."""
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
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads, of no concern
        pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_fork_between_two_tries(lossy, make_desk, jobs):
    """What a child enqueues isn't taken for what the parent did, nor the reverse."""
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
    """A child doesn't take over what its parent is unsure of."""
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
    """What one thread is unsure of, another one doesn't settle."""
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
