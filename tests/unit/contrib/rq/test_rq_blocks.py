"""What a block enqueues with RQ's own calls is captured, and relayed as RQ would have it."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import callbacks
import pytest
from redis import Redis
from relayed import RelayDesk, snapshot
from rq import Queue
from rq.decorators import job
from rq.group import Group

from pgnotifier.contrib._queues.recordings import not_captured, record
from pgnotifier.contrib.rq.job_blocks import OwningRedis, capture_blocks
from pgnotifier.contrib.rq.outbox_jobs import read
from pgnotifier.errors import ConfigurationError

LATER = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def queue(client):
    return Queue("images", connection=client)


@pytest.fixture
def block(client):
    """Return a function that returns a recording of the test's Redis."""
    capture_blocks()
    return lambda: record(OwningRedis(client))


def ids(recording):
    return [read(text).id for _, text in recording.drafts]


def described(*given):
    """Return what `Queue.prepare_data` returns, given ids and what each depends on."""
    return [
        Queue.prepare_data(callbacks.callback, (1,), job_id=one, depends_on=others)
        for one, others in given
    ]


def decorated(queue):
    job(queue.name, connection=queue.connection)(callbacks.other).delay(1)


CALLS = {
    "enqueue": lambda queue: queue.enqueue(callbacks.callback, 1, job_id="a", at_front=True),
    "enqueue_call": lambda queue: queue.enqueue_call(callbacks.callback, (1,), job_id="a"),
    "enqueue_at": lambda queue: queue.enqueue_at(LATER, callbacks.callback, 1, job_id="a"),
    "enqueue_job": lambda queue: queue.enqueue_job(queue.create_job(callbacks.other, job_id="a")),
    "enqueue_many": lambda queue: queue.enqueue_many(
        described(("b", ["a"]), ("a", None), ("c", None))
    ),
    "a group": lambda queue: Group(queue.connection, "thumbs").enqueue_many(
        queue, described(("a", None), ("c", None))
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(client, queue, block, case):
    """Nothing is written until the relay writes what RQ would have written."""
    with block() as recording:
        ours = CALLS[case](queue)
    assert not client.keys()
    desk = RelayDesk(queue)
    assert not desk.relay_texts(*[text for _, text in recording.drafts])
    assert not desk.reported
    relayed = snapshot(client)
    theirs = CALLS[case](queue)
    client.sadd(queue.redis_queues_keys, queue.key)  # RQ 2.0 leaves that out of `enqueue_many`
    assert relayed == snapshot(client)
    assert type(ours) is type(theirs)


def test_dependencies_in_a_group(client, queue, block):
    """A job of a group waits for another one of the same call, which RQ alone doesn't see yet."""
    with block() as recording:
        Group(client, "thumbs").enqueue_many(queue, described(("b", ["a"]), ("a", None)))
    assert not RelayDesk(queue).relay_texts(*[text for _, text in recording.drafts])
    assert queue.job_ids == ["a"]
    assert queue.deferred_job_registry.get_job_ids() == ["b"]
    assert {one.id for one in Group.fetch("thumbs", client).get_jobs()} == {"a", "b"}


def test_other_calls(client, queue, block):
    """A delay begins with the call, and RQ's decorator has its own queue."""
    with block() as recording:
        queue.enqueue_in(timedelta(days=1), callbacks.callback, 1, job_id="a")
        decorated(queue)
    assert not client.keys()
    made = [read(text) for _, text in recording.drafts]
    assert made[0].at is not None
    assert [one.function for one in made] == ["callbacks.callback", "callbacks.other"]


def test_which_queues(client, queue, block):
    """Queues of the same database of the same server are captured, however they are connected."""
    place = client.connection_pool.connection_kwargs
    url = f"redis://localhost:{place['port']}"
    number = place.get("db", 0)
    other = Redis.from_url(f"{url}/{number + 1 if number < 15 else 0}")
    with block() as recording, Redis.from_url(f"{url}/{number}") as same:
        Queue("low", connection=same).enqueue(callbacks.other, job_id="same")
        Queue("low", connection=other).enqueue(callbacks.other, job_id="other")
        Queue("low", connection=client, is_async=False).enqueue(callbacks.other, job_id="now")
        with not_captured():
            queue.enqueue(callbacks.other, job_id="sent")
    assert ids(recording) == ["same"]
    assert [one.id for one in queue.jobs] == ["sent"]
    with other:
        assert Queue("low", connection=other).job_ids == ["other"]
        other.flushdb()


def test_classes_of_others(client, block):
    """A class with methods of its own is captured as a whole; what it adds itself is refused."""

    class Later(Queue):
        _commit_mode = "on_commit"

        def enqueue_call(self, *args, **kwargs):
            assert self._commit_mode == "auto"
            return super().enqueue_call(*args, **kwargs)

    class Twice(Queue):
        def enqueue(self, *args, **kwargs):
            super().enqueue(*args, **kwargs)
            return super().enqueue(*args, **kwargs)

    capture_blocks()
    with block() as recording:
        Later("low", connection=client).enqueue(callbacks.other, job_id="a")
        with pytest.raises(ConfigurationError, match="2 jobs of 1 calls"):
            Twice("low", connection=client).enqueue(callbacks.other)
    assert ids(recording) == ["a"]
    assert not client.keys()


def test_what_an_outbox_refuses(client, queue, block):
    """Nothing of a call that fails is enqueued."""
    group = Group(client, "thumbs")
    elsewhere = Group(Redis(port=1), "thumbs")
    with block() as recording:
        for call in (
            lambda: queue.enqueue(callbacks.other, pipeline=client.pipeline()),
            lambda: queue.enqueue_many(described(("a", None)), pipeline=client.pipeline()),
            lambda: group.enqueue_many(queue, described(("a", None)), pipeline=client.pipeline()),
        ):
            with pytest.raises(ConfigurationError, match="takes no pipeline"):
                call()
        with pytest.raises(ConfigurationError, match="isn't in the Redis of the queue"):
            elsewhere.enqueue_many(queue, described(("a", None)))
        with pytest.raises(ValueError, match="more than once"):
            queue.enqueue_many(described(("a", None), ("a", None)))
    assert not recording.drafts
    assert not client.keys()


def test_nested_blocks(queue, block):
    """The innermost block takes the jobs, and after it the one around it."""
    with block() as outer:
        with block() as inner:
            queue.enqueue(callbacks.other, job_id="inner")
        queue.enqueue(callbacks.other, job_id="outer")
    assert ids(inner) == ["inner"]
    assert ids(outer) == ["outer"]
    queue.enqueue(callbacks.other, job_id="sent")
    assert queue.job_ids == ["sent"]


def test_threads_and_tasks(queue, block):
    """A thread isn't in the block of another one; a task of asyncio is, until the block ends."""

    async def enqueue_inside_and_after():
        ended = asyncio.Event()

        async def enqueue():
            queue.enqueue(callbacks.other, job_id="inside")
            await ended.wait()
            queue.enqueue(callbacks.other, job_id="after")

        with block() as recording:
            task = asyncio.create_task(enqueue())
            await asyncio.sleep(0)
            await asyncio.to_thread(queue.enqueue, callbacks.other, job_id="in-its-thread")
        ended.set()
        await task
        return recording

    assert ids(asyncio.run(enqueue_inside_and_after())) == ["inside", "in-its-thread"]
    assert queue.job_ids == ["after"]
    with block() as recording:
        thread = threading.Thread(
            target=queue.enqueue, args=(callbacks.other,), kwargs={"job_id": "thread"}
        )
        thread.start()
        thread.join()
    assert not recording.drafts
    assert queue.job_ids == ["after", "thread"]


def test_a_key_of_another_type(client, queue, block):
    """A job of a group that can't be added to it is refused as a whole."""
    client.set(Group.get_key("thumbs"), "no set")
    with block() as recording:
        Group(client, "thumbs").enqueue_many(queue, described(("a", None)))
    desk = RelayDesk(queue)
    desk.relay_texts(*[text for _, text in recording.drafts])
    assert "must hold a set, not a string" in str(desk.reported[0])
    assert not queue.job_ids
