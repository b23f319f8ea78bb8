"""The relay of RQ's outbox: each job once, whatever is lost; dead letters; what SQL asks for."""

import pickle
from contextlib import closing
from datetime import UTC, datetime

import callbacks
import pytest
import redis
from lossy import Lossy
from relayed import RelayDesk, texts_of
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus

from pgnotifier.contrib.rq.errors import JobFormatError, JobNotAllowedError, JobRefusedError
from pgnotifier.contrib.rq.relay import JobRelayDispatcher
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

LATER = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def queue(client):
    return Queue("images", connection=client)


@pytest.fixture
def relay(queue):
    return RelayDesk(queue)


@pytest.fixture
def lossy(pgnotifier_redis_url):
    """Yield a proxy that loses transactions and scripts."""
    proxy = Lossy(pgnotifier_redis_url)
    yield proxy
    proxy.close()


def plain(*ids, **options):
    """Return functions that enqueue jobs with these ids."""
    return [
        lambda queue, one=one: queue.enqueue(callbacks.callback, one, job_id=one, **options)
        for one in ids
    ]


def scheduled(id):
    """Return a function that schedules a job."""
    return lambda queue: queue.enqueue_at(LATER, callbacks.callback, job_id=id)


def test_many_are_sent_in_order(queue, relay):
    """Jobs get to their queues in the order of the log, at whichever end."""
    ids = [f"job-{n}" for n in range(1200)]
    assert not relay.relay_texts(*texts_of(queue, *plain(*ids)))
    assert queue.job_ids == ids
    relay.relay_texts(*texts_of(queue, *plain("a", "b", at_front=True)))
    assert queue.job_ids[:3] == ["b", "a", "job-0"]
    assert relay.relayed == {"callbacks.callback": 1202}


def test_queues_of_one_outbox(client, relay):
    """Each job has the name of its queue, and one relay serves them all."""
    for name in ("low", "größe"):
        relay.relay_texts(*texts_of(Queue(name, connection=client), *plain("of-" + name[:2])))
    assert [Queue(name, connection=client).count for name in ("low", "größe")] == [1, 1]
    assert {queue.name for queue in Queue.all(connection=client)} == {"low", "größe"}


@pytest.mark.parametrize("what", ["lost", "unanswered"])
@pytest.mark.parametrize("kind", ["plain", "scheduled", "dependent"])
def test_an_answer_that_is_lost(lossy, client, queue, what, kind):
    """If an answer was lost, the jobs are sent again, and nothing is there twice."""
    with redis.Redis.from_url(lossy.url, retry=None) as connection:
        desk = RelayDesk(Queue("images", connection=connection))
        assert not desk.relay_texts(*texts_of(queue, *plain("first")))
        last = {
            "plain": plain("last"),
            "scheduled": [scheduled("last")],
            "dependent": plain("last", depends_on="first"),
        }[kind]
        entries = desk.entries(*texts_of(queue, *plain("a", "b"), *last, *plain("c")))
        # The script comes first. Then it is the turn of the transaction for what RQ enqueues.
        lossy.plan = [what] if kind == "plain" else [None, what]
        left = entries
        while left:
            try:
                left = desk.deliver(*left)
            except redis.RedisError:
                left = desk.left
    assert not lossy.plan
    assert desk.reported == []
    expected = ["first", "a", "b", *(["last"] if kind == "plain" else []), "c"]
    assert queue.job_ids == expected
    assert queue.scheduled_job_registry.get_job_ids() == (["last"] if kind == "scheduled" else [])
    assert queue.deferred_job_registry.get_job_ids() == (["last"] if kind == "dependent" else [])
    assert sum(desk.relayed.values()) <= 5


def test_a_relay_that_was_killed(client, queue):
    """Another relay gets the same entries again: a job that is done by then keeps its state."""
    first = RelayDesk(queue)
    calls = (*plain("a"), *plain("b", depends_on="a"), scheduled("c"), *plain("d", result_ttl=0))
    entries = first.entries(*texts_of(queue, *calls))
    first.deliver(*entries)
    SimpleWorker([queue], connection=client).work(burst=True, with_scheduler=False)
    before = {key: client.dump(key) for key in client.scan_iter("rq:*") if b"worker" not in key}
    assert Job.fetch("b", connection=client).get_status() == JobStatus.FINISHED
    second = RelayDesk(queue)
    assert second.deliver(*entries) == []
    after = {key: client.dump(key) for key in client.scan_iter("rq:*") if b"worker" not in key}
    assert after == before
    assert second.relayed == {}
    assert second.reported == []


def test_the_same_job_id_again(client, queue, relay):
    """Another entry with the same job id is another job, as it is for RQ."""
    text, again = texts_of(queue, *plain("daily", "daily"))
    relay.relay_texts(text)
    relay.relay_texts(again)
    assert queue.job_ids == ["daily", "daily"]


def test_unique_jobs(queue, relay):
    """`unique=True` leaves out a job that is there: nobody is there to catch an error."""
    try:
        texts = texts_of(queue, *plain("one", "one", unique=True))
    except TypeError:
        pytest.skip("this RQ has no unique jobs")
    if not texts or '"unique":true' not in texts[0]:
        pytest.skip("this RQ has no unique jobs")
    later = texts_of(
        queue, lambda queue: queue.enqueue_at(LATER, callbacks.other, job_id="one", unique=True)
    )
    relay.relay_texts(*texts, *later)
    assert queue.job_ids == ["one"]
    assert not queue.scheduled_job_registry.get_job_ids()
    assert relay.reported == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text",
        "{}",
        '{"function": 1}',
        '{"function": "a", "id": "a", "queue": "q", "job": {}, "binary": {"data": "?"}}',
        '{"function": "a", "id": "a", "queue": "q", "job": {"ttl": "soon"}}',
        '{"function": "a", "id": "\\ud800", "queue": "q", "job": {}}',
        '{"function": "a", "unknown": 1}',
        "[" * 10_000,
        '{"function": "a", "args": ' + "[" * 500 + "]" * 500 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_what_cannot_be_read(queue, relay, text):
    """It is set aside with the reason, and what comes after it goes on."""
    before, after = texts_of(queue, *plain("before", "after"))
    assert not relay.relay_texts(before, text, after)
    assert queue.job_ids == ["before", "after"]
    assert [type(exc) for exc in relay.reported] == [JobFormatError]
    assert relay.relay.details()["refused"] == 1


def test_keys_of_another_type(client, queue, relay):
    """WRONGTYPE sets aside the jobs that it concerns, and leaves nothing of them in Redis."""
    client.set("rq:queue:images", 1)
    client.set("rq:scheduled:low", 1)
    client.set("rq:job:mine", 1)
    low = Queue("low", connection=client)
    texts = [
        *texts_of(queue, *plain("a")),
        *texts_of(low, *plain("b", "mine"), scheduled("c"), *plain("d")),
        *texts_of(queue, *plain("e", depends_on="d")),
    ]
    assert not relay.relay_texts(*texts)
    assert low.job_ids == ["b", "d"]
    assert [str(exc) for exc in relay.reported] == [
        "WRONGTYPE the key rq:queue:images must hold a list, not a string",
        "WRONGTYPE the key rq:job:mine must hold a hash, not a string",
        "WRONGTYPE the key rq:scheduled:low must hold a zset, not a string",
        "WRONGTYPE the key rq:queue:images must hold a list, not a string",
    ]
    assert {type(exc) for exc in relay.reported} == {JobRefusedError}
    assert not client.exists("rq:job:a", "rq:job:c", "rq:job:e")


def test_dependents_of_a_refused_job(client, queue, relay):
    """They are refused, too: RQ would take the job that isn't there for one that is done."""
    client.set("rq:queue:images", 1)
    low = Queue("low", connection=client)
    first = relay.entries(*texts_of(queue, *plain("a")))
    others = relay.entries(*texts_of(low, *plain("b", depends_on="a"), *plain("c", depends_on="b")))
    relay.deliver(*first, *others)
    assert [str(exc) for exc in relay.reported[1:]] == [
        "it depends on the job a, which was refused: retry that one first",
        "it depends on the job b, which was refused: retry that one first",
    ]
    assert not low.job_ids
    client.delete("rq:queue:images")
    relay.deliver(*first, *others)  # an operator retries
    assert queue.job_ids == ["a"]
    assert low.deferred_job_registry.get_job_ids() == ["b", "c"]
    assert len(relay.reported) == 3


def test_a_job_that_is_too_large(client, queue, relay):
    """What Redis would close the connection for is set aside before it is sent."""
    client.config_set("proto-max-bulk-len", 1 << 20)
    try:
        texts = texts_of(queue, *plain("a", "b", "c"))
        (large,) = texts_of(queue, *plain("d", description="x" * ((1 << 20) + 1)))
        assert not relay.relay_texts(*texts[:2], large, texts[2])
    finally:
        client.config_set("proto-max-bulk-len", 512 << 20)
    assert queue.job_ids == ["a", "b", "c"]
    (error,) = relay.reported
    assert str(error) == (
        "the job has 1,048,577 bytes, and Redis accepts 1,048,576 (its setting proto-max-bulk-len)"
    )


def lock(client):
    """Have Redis ask for a password, from new connections."""
    client.config_set("requirepass", "sesame")
    return lambda: client.config_set("requirepass", "")


def fill(client):
    """Have Redis take nothing more."""
    client.config_set("maxmemory", 1)
    return lambda: client.config_set("maxmemory", 0)


def freeze(client):
    """Have Redis be a replica."""
    client.replicaof("127.0.0.1", 1)
    return lambda: client.replicaof("NO", "ONE")


@pytest.mark.parametrize("break_it", [lock, fill, freeze])
@pytest.mark.parametrize("kind", ["plain", "scheduled", "dependent"])
@pytest.mark.servers
def test_a_server_that_takes_nothing(pgnotifier_private_valkey, break_it, kind):
    """Everything waits, in order, and goes on once the server accepts jobs again."""
    url = pgnotifier_private_valkey.url
    with redis.Redis.from_url(url) as admin, redis.Redis.from_url(url) as connection:
        admin.flushall()
        queue = Queue("images", connection=connection)
        desk = RelayDesk(queue)
        desk.relay_texts(*texts_of(queue, *plain("first")))
        call = {
            "plain": plain("last"),
            "scheduled": [scheduled("last")],
            "dependent": plain("last", depends_on="first"),
        }[kind]
        entries = desk.entries(*texts_of(queue, *call, *plain("next")))
        repair = break_it(admin)
        try:
            connection.connection_pool.disconnect()
            with pytest.raises(redis.RedisError):
                desk.deliver(*entries)
            assert desk.left == entries
        finally:
            repair()
        assert not desk.deliver(*entries)
        assert desk.reported == []
        assert queue.job_ids == ["first", *(["last"] if kind == "plain" else []), "next"]


def test_a_server_that_is_down(queue):
    """Everything waits."""
    with redis.Redis(port=1, retry=None) as nowhere:
        desk = RelayDesk(Queue(connection=nowhere))
        entries = desk.entries(*texts_of(queue, *plain("a")))
        with pytest.raises(redis.ConnectionError):
            desk.deliver(*entries)
        assert desk.left == entries
        assert not desk.relay.is_reachable()


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (callbacks.callback, ("sprung",))


def test_nothing_is_unpickled(client, queue, relay):
    """A relay doesn't run what enqueuers have pickled, be it of a job or of those it waits for."""
    del callbacks.called[:]
    trap = pickle.dumps(Trap())
    calls = (
        *plain("a", meta={"trap": Trap()}),
        *plain("b", depends_on="a", meta={"trap": Trap()}),
        lambda queue: queue.enqueue_at(LATER, callbacks.callback, Trap(), job_id="c"),
    )
    texts = texts_of(queue, *calls)
    del callbacks.called[:]
    client.hset("rq:job:a", mapping={"data": trap, "meta": trap, "result": trap})
    relay.relay_texts(*texts)
    assert callbacks.called == []
    pickle.loads(client.hget("rq:job:b", "meta"))
    assert callbacks.called == [("sprung",)]


def test_what_sql_asks_for(client, queue):
    """RQ makes the job, with the queue's serializer and defaults."""
    relay = RelayDesk(queue, allow=["callbacks.*", "shop.jobs.resize"])
    relay.ask(
        function="shop.jobs.resize",
        id="0f3c",
        args=[1, 2.5, "x"],
        kwargs={"at_front": True, "description": 3},
        queue="low",
        timeout=7,
        result_ttl=8,
        failure_ttl=9,
        ttl=-1,
        description="a test",
        meta={"by": "sql"},
    )
    job = Job.fetch("0f3c", connection=client)
    assert Queue("low", connection=client).job_ids == ["0f3c"]
    assert (job.func_name, job.args) == ("shop.jobs.resize", (1, 2.5, "x"))
    assert job.kwargs == {"at_front": True, "description": 3}
    assert (job.timeout, job.result_ttl, job.failure_ttl, job.ttl) == (7, 8, 9, None)
    assert (job.description, job.meta) == ("a test", {"by": "sql"})
    relay.ask(function="callbacks.other", at=LATER.isoformat(), ttl=5)
    (made,) = queue.scheduled_job_registry.get_job_ids()
    assert queue.scheduled_job_registry.get_scheduled_time(made) == LATER
    assert Job.fetch(made, connection=client).get_status() == JobStatus.SCHEDULED
    assert relay.reported == []


@pytest.mark.parametrize(
    "name",
    [
        "shop.jobs",
        "shop.jobs.resize.more",
        "shop.jobs.os.system",
        "shop.jobs.resized",
        "os.system",
        "callbacks.Shop.static",
        "callbacks.",
        "callbacks.other\n",
        "Callbacks.other",
    ],
)
def test_what_sql_may_not_ask_for(queue, name):
    """A function that matches no pattern is refused: `*` doesn't stand for a dot."""
    relay = RelayDesk(queue, allow=["callbacks.?*", "shop.jobs.resize", "shop.jobs.make_*"])
    relay.ask(function=name)
    (error,) = relay.reported
    assert isinstance(error, JobNotAllowedError)
    assert "matches no pattern in allow=[…]" in str(error)
    assert not queue.count


def test_nothing_is_allowed_by_default(relay):
    """RQ has no registry of functions."""
    relay.ask(function="callbacks.other")
    assert isinstance(relay.reported[0], JobNotAllowedError)


def test_a_request_that_rq_refuses(queue):
    """It is set aside with RQ's reason."""
    relay = RelayDesk(queue, allow=["callbacks.other"])
    relay.ask(function="callbacks.other", timeout=0)
    relay.ask(function="callbacks.other", id="not an id")
    relay.ask(function="callbacks.other")
    assert "0 timeout is not allowed" in str(relay.reported[0])
    assert queue.count == 3 - len(relay.reported)


def test_arguments(client):
    """Wrong arguments are refused when the relay is made."""
    with pytest.raises(ArgumentTypeError, match="allow must be a list"):
        JobRelayDispatcher(client, allow="shop.jobs.resize")
    with pytest.raises(ArgumentTypeError, match="allow must be a list"):
        JobRelayDispatcher(client, allow=None)
    with pytest.raises(ArgumentTypeError, match="must be a str"):
        JobRelayDispatcher(client, 7)
    with pytest.raises(ArgumentTypeError, match=r"JobRelayDispatcher needs an rq\.Queue"):
        JobRelayDispatcher(7)
    with pytest.raises(ConfigurationError) as caught:
        JobRelayDispatcher("redis://:se/same@localhost")
    assert "same" not in str(caught.value).replace("urllib", "")
    with closing(JobRelayDispatcher("redis://localhost:1/0")) as relay:
        assert not relay.is_reachable()
