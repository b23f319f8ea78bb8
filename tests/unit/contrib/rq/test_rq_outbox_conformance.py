"""What the relay of an outbox writes to Redis equals what `queue.enqueue` writes, key by key."""

from datetime import UTC, datetime, timedelta

import callbacks
import pytest
import rq
from relayed import RelayDesk, snapshot, texts_of
from rq import Callback, Queue, Retry
from rq.job import Dependency, Job
from rq.serializers import JSONSerializer

LATER = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
OTHER = Callback(callbacks.other, timeout=7)
OPTIONS = {
    "plain": {},
    "at the front": {"at_front": True},
    "timeouts": {"job_timeout": "2m", "result_ttl": 0, "ttl": 600, "failure_ttl": 30},
    "for ever": {"job_timeout": -1, "result_ttl": -1},
    "described": {"description": "for {you} \x00 é ☃", "meta": {"a": [1, (2,)], "b": b"\xff"}},
    "again": {"retry": Retry(max=3, interval=[1, 2, 3])},
    "called back": {"on_success": OTHER, "on_failure": OTHER, "on_stopped": OTHER},
}
if hasattr(rq, "Repeat"):  # from RQ 2.2 on
    OPTIONS["repeated"] = {"repeat": rq.Repeat(times=3, interval=5)}
if hasattr(rq, "Webhook"):  # from RQ 3 on
    OPTIONS["web"] = {"webhooks": [rq.Webhook("https://example.com/done", "finished")]}
DEPENDENCIES = {
    "an id": lambda: "first",
    "a job": lambda: Job.create(callbacks.other, id="first", connection=object()),
    "several": lambda: ["first", "second"],
    "one that may fail": lambda: Dependency(["first"], allow_failure=True, enqueue_at_front=True),
    "what isn't there": lambda: "nothing",
}


@pytest.fixture
def queue(client):
    return Queue("images", connection=client)


def compare(client, queue, *calls):
    """Check that the relay writes what functions that enqueue jobs write; return what that is."""
    desk = RelayDesk(queue)
    texts = texts_of(queue, *calls)
    assert not client.keys()
    assert not desk.relay_texts(*texts)
    assert not desk.reported
    ours = snapshot(client)
    for call in calls:
        call(queue)
    theirs = snapshot(client)
    assert ours == theirs
    return ours


@pytest.mark.parametrize("case", OPTIONS)
def test_options(client, queue, case):
    """Jobs, queues and registries are the same for each option."""
    calls = [
        lambda queue, n=n: queue.enqueue(
            callbacks.callback, n, "x" * n, key=n, job_id=f"job-{n}", **OPTIONS[case]
        )
        for n in (1, 2, 3000)
    ]
    assert len(compare(client, queue, *calls)) == 5


@pytest.mark.parametrize("case", DEPENDENCIES)
@pytest.mark.parametrize("status", ["queued", "finished", "failed"])
def test_dependencies(client, queue, case, status):
    """A job waits for others exactly if it would have waited without an outbox."""

    def first(queue):
        job = queue.enqueue(callbacks.other, job_id="first")
        client.hset("rq:job:first", "status", status)
        return job

    def second(queue):
        queue.enqueue(callbacks.other, job_id="second")

    def dependent(queue):
        queue.enqueue(
            callbacks.callback, 1, job_id="third", depends_on=DEPENDENCIES[case](), meta={"m": 1}
        )

    desk = RelayDesk(queue)
    texts = texts_of(queue, dependent)
    found = []
    for call in (lambda: desk.relay_texts(*texts), lambda: dependent(queue)):
        first(queue)
        second(queue)
        call()
        found.append(snapshot(client))
    assert not desk.reported
    assert found[0] == found[1]


@pytest.mark.parametrize("case", OPTIONS)
def test_scheduled(client, queue, case):
    """Jobs for later are scheduled as RQ schedules them."""
    compare(
        client,
        queue,
        lambda queue: queue.enqueue_at(
            LATER, callbacks.callback, 1, job_id="later", **OPTIONS[case]
        ),
        lambda queue: queue.enqueue_at(
            datetime(2031, 1, 1, 12),  # noqa: DTZ001 - local, as RQ takes it
            callbacks.callback,
            job_id="local",
        ),
    )


def test_a_delay_begins_when_the_job_is_enqueued(client, queue):
    """`enqueue_in` counts from the call, and not from when the relay sends the job."""
    before = datetime.now(UTC)
    texts = texts_of(
        queue, lambda queue: queue.enqueue_in(timedelta(hours=1), callbacks.other, job_id="a")
    )
    RelayDesk(queue).relay_texts(*texts)
    score = client.zscore("rq:scheduled:images", "a")
    assert 3599 <= score - before.timestamp() <= 3660


def test_another_serializer(client):
    """The queue's own serializer makes the job."""
    queue = Queue("json", connection=client, serializer=JSONSerializer)
    made = compare(
        client,
        queue,
        lambda queue: queue.enqueue("callbacks.callback", 1, a=[2], job_id="a", meta={"b": 1}),
        lambda queue: queue.enqueue("callbacks.callback", job_id="b", depends_on="a"),
    )
    assert made[b"rq:job:a"][0][b"data"] == b'["callbacks.callback", null, [1], {"a": [2]}]'


def test_explicit_arguments(client, queue):
    """`args=` and `kwargs=` are those of the function, as in RQ."""
    compare(
        client,
        queue,
        lambda queue: queue.enqueue(
            callbacks.callback, args=(1,), kwargs={"description": 2}, job_id="a"
        ),
    )


def test_methods(client, queue):
    """A method of an object is pickled with the object, and a static one is named."""
    shop = callbacks.Shop()
    compare(
        client,
        queue,
        lambda queue: queue.enqueue(shop.method, 1, job_id="a"),
        lambda queue: queue.enqueue(callbacks.Shop.static, 1, job_id="b"),
    )


class MarkedJob(Job):
    """A job class with keys and a field of its own."""

    redis_job_namespace_prefix = "shop:job:"

    def to_dict(self, *args, **kwargs):
        return {**super().to_dict(*args, **kwargs), "mark": f"of {self.id}"}


def test_another_job_class(client):
    """Fields and keys of a class of the user's get to Redis."""
    queue = Queue("images", connection=client, job_class=MarkedJob)
    made = compare(
        client,
        queue,
        lambda queue: queue.enqueue(callbacks.callback, job_id="a"),
        lambda queue: queue.enqueue_at(LATER, callbacks.callback, job_id="b"),
    )
    assert made[b"shop:job:a"][0][b"mark"] == b"of a"


class LedgerQueue(Queue):
    """A queue that writes more than RQ's does, and has defaults of its own."""

    def enqueue_call(self, func, **options):
        return super().enqueue_call(func, **{**options, "result_ttl": 77})

    def enqueue_job(self, job, pipeline=None, at_front=False, **options):
        made = super().enqueue_job(job, pipeline=pipeline, at_front=at_front, **options)
        (self.connection if pipeline is None else pipeline).rpush("ledger", job.id)
        return made


def test_another_queue_class(client):
    """What a class of the user's does when it enqueues, it does for the relay, too."""
    queue = LedgerQueue("images", connection=client)
    made = compare(
        client,
        queue,
        *(lambda queue, n=n: queue.enqueue(callbacks.other, job_id=f"a{n}") for n in range(3)),
        lambda queue: queue.enqueue(callbacks.other, job_id="b", depends_on="a1"),
    )
    assert made[b"ledger"][0] == [b"a0", b"a1", b"a2", b"b"]
    assert made[b"rq:job:a0"][0][b"result_ttl"] == b"77"


@pytest.mark.skipif(not hasattr(rq, "RateLimit"), reason="this RQ has no rate limits")
def test_rate_limits(client, queue):
    """A job that is limited in its rate waits in RQ's registry."""
    limit = rq.RateLimit("api", 1)
    calls = [
        lambda queue, n=n: queue.enqueue(
            callbacks.other, job_id=f"a{n}", rate_limit=limit, meta={"n": n}
        )
        for n in range(3)
    ]
    assert compare(client, queue, *calls)[b"rq:queue:images"] == ([b"a0"], -1)


def test_what_others_put_around_rq(client, queue, monkeypatch):
    """Sentry replaces `Queue.enqueue_job` to add its trace, when the job is enqueued."""
    original = Queue.enqueue_job

    def enqueue_job(self, job, **options):
        job.meta["trace"] = traces.pop()
        return original(self, job, **options)

    traces = [2, 1]
    monkeypatch.setattr(Queue, "enqueue_job", enqueue_job)
    texts = texts_of(queue, lambda queue: queue.enqueue(callbacks.other, job_id="a"))
    texts += texts_of(queue, lambda queue: queue.enqueue(callbacks.other, job_id="b"))
    monkeypatch.undo()
    RelayDesk(queue).relay_texts(*texts)
    assert [job.meta for job in queue.jobs] == [{"trace": 1}, {"trace": 2}]
