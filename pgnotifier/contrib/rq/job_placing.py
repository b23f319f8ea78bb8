"""Have RQ enqueue a job that depends on others, is scheduled, limited, or part of a group."""

from typing import Any

from redis import Redis
from redis.exceptions import WatchError
from rq import Queue
from rq.group import Group
from rq.registry import DeferredJobRegistry, ScheduledJobRegistry
from rq.utils import as_text

from pgnotifier.contrib.rq.errors import JobRefusedError
from pgnotifier.contrib.rq.job_script import JobNotes, Post
from pgnotifier.contrib.rq.outbox_jobs import MadeJob

_OF_QUEUE = frozenset({"status", "enqueued_at"})
"""The fields with the state of a job. RQ sets them when it enqueues the job."""


class _Opaque:
    """A serializer that reads nothing, because a relay doesn't need what users have serialized.

    RQ's own, pickle, executes what it reads. The relay must not do that for those who enqueue.
    """

    @staticmethod
    def dumps(_: Any) -> bytes:
        return b""

    @staticmethod
    def loads(_: Any) -> dict[str, Any]:
        return {}


def restore(made: MadeJob, queue: Queue) -> Any:
    """Return the job, as RQ reads it from Redis, without its `meta`."""
    job: Any = queue.job_class(id=made.id, connection=queue.connection, serializer=_Opaque)
    fields = {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in made.fields.items()
        if name != "meta"
    }
    job.restore(fields)
    return job


def place(connection: Redis, notes: JobNotes, post: Post) -> bool:
    """Have RQ enqueue a job, unless Redis already has it; return whether it is new.

    Raises:
        JobRefusedError: A key is in use for something else.
        redis.RedisError: Redis is down, or refuses the transaction.
        Exception: RQ refuses the job.
    """
    made, queue = post.job, post.queue
    opened: Any = connection.pipeline()  # its methods have no types
    with opened as pipeline:
        key = as_text(queue.job_class.key_for(made.id)) or ""
        fields: Any = {name: one for name, one in made.fields.items() if name not in _OF_QUEUE}
        while True:
            pipeline.reset()
            # What is watched can't change before the transaction.
            pipeline.watch(notes.key, key)
            if pipeline.zscore(notes.key, post.entry) is not None:
                return False
            if made.is_unique and pipeline.exists(key):
                return False
            _check_types(pipeline, queue, key, made.group)
            job = restore(made, queue)
            if "rate_limit_key" in fields:  # RQ needs several transactions for these
                pipeline.reset()
                connection.hset(key, mapping=fields)
                queue.enqueue_job(job, at_front=made.at_front)
            else:
                try:
                    _add(pipeline, made, queue, job)
                except WatchError:
                    continue
                pipeline.hset(key, mapping=fields)
            if made.group is not None:
                pipeline.sadd(Group.get_key(made.group), made.id)
                pipeline.sadd(Group.REDIS_GROUP_KEY, made.group)
            notes.add(pipeline, post.entry)
            try:
                pipeline.execute()
            except WatchError:
                continue
            return True


def _add(pipeline: Any, made: MadeJob, queue: Queue, job: Any) -> None:
    """Begin the transaction, and add RQ's commands to it.

    Raises:
        WatchError: A job that this one depends on has changed meanwhile.
    """
    if made.at is not None:
        pipeline.multi()
        queue.schedule_job(job, made.at, pipeline=pipeline)
    else:  # RQ begins it by itself, once it has looked at the other jobs
        queue.enqueue_job(job, pipeline=pipeline, at_front=made.at_front)


def _check_types(pipeline: Any, queue: Queue, key: str, group: str | None) -> None:
    """Check the types of keys: a transaction of Redis isn't undone if a command fails.

    Raises:
        JobRefusedError: A key is in use for something else.
    """
    registries: tuple[Any, ...] = (DeferredJobRegistry, ScheduledJobRegistry)
    expected = {queue.key: "list", key: "hash"}
    expected |= {registry(queue=queue).key: "zset" for registry in registries}
    if group is not None:
        expected |= {Group.get_key(group): "set", Group.REDIS_GROUP_KEY: "set"}
    for one, kind in expected.items():
        found = as_text(pipeline.type(one))
        if found not in (kind, "none"):
            raise JobRefusedError(
                f"WRONGTYPE the key {as_text(one)} must hold a {kind}, not a {found}"
            )
