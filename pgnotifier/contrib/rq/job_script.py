"""Enqueue many jobs in one round trip, each exactly once: a script for Redis, and its arguments.

In the same step, Redis notes which log entries it has got. If a relay sends them again, the script
leaves them out: the job may be running by then, or be done, and writing its key again would change
its state while a worker has it.

https://redis.io/docs/latest/develop/interact/programmability/eval-intro/
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from redis import Redis
from rq import Queue
from rq.utils import as_text, now, utcformat

from pgnotifier.contrib.rq.outbox_jobs import MadeJob
from pgnotifier.contrib.rq.stamping import RedisCommand

KEPT = 20_000
"""How many entries are noted at least: more than a relay can send before it saves its position."""
NOTE_LIFE = 24 * 3600
"""Seconds to keep the notes after the latest job."""

# An error of a command, such as OOM, ends the script. What it has enqueued by then is noted.
_SCRIPT = """
local notes, score, kept, life = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local answers, at = {}, 4
while at <= #ARGV do
    local entry, queue, job, is_unique, count = unpack(ARGV, at, at + 4)
    at = at + 5
    local answer = ''
    if redis.call('ZSCORE', notes, entry) then
        answer = 'noted'
    elseif is_unique == '1' and redis.call('EXISTS', job) == 1 then
        answer = 'exists'
    else
        for key, kind in pairs({[queue] = 'list', [job] = 'hash'}) do
            local found = redis.call('TYPE', key).ok
            if found ~= kind and found ~= 'none' then
                answer = 'WRONGTYPE the key ' .. key .. ' must hold a ' .. kind ..
                    ', not a ' .. found
            end
        end
    end
    for _ = 1, tonumber(count) do
        local size = tonumber(ARGV[at])
        if answer == '' then
            redis.call(unpack(ARGV, at + 1, at + size))
        end
        at = at + size + 1
    end
    if answer == '' then
        redis.call('ZADD', notes, score, entry)
    end
    answers[#answers + 1] = answer
end
redis.call('ZREMRANGEBYRANK', notes, 0, -1 - kept)
redis.call('EXPIRE', notes, life)
return answers
"""


class Post(NamedTuple):
    """A job to enqueue.

    Attributes:
        entry: A text that identifies the entry of the log.
        job: The job.
        queue: Its queue.
    """

    entry: str
    job: MadeJob
    queue: Queue


class JobNotes:
    """The notes in Redis of which entries it has got: the latest ones, in a sorted set by time."""

    def __init__(self, name: str) -> None:
        """Name the key.

        Args:
            name: The name of the outbox.
        """
        self.key = f"pgnotifier:rq:sent:{name}"

    def add(self, pipeline: Any, entry: str) -> None:
        """Add the commands that note an entry to a transaction."""
        pipeline.zadd(self.key, {entry: time.time()})
        pipeline.zremrangebyrank(self.key, 0, -1 - KEPT)
        pipeline.expire(self.key, NOTE_LIFE)


def send(connection: Redis, notes: JobNotes, posts: Sequence[Post]) -> list[str]:
    """Enqueue jobs that depend on nothing, in order; return an answer for each.

    Returns:
        "" for a job that is enqueued now, "noted" or "exists" for one that is left out, or the
        reason why Redis will never accept it.

    Raises:
        redis.RedisError: Redis is down or full. Some of the jobs may be enqueued.
    """
    script = connection.register_script(_SCRIPT)
    given: list[Any] = [time.time(), KEPT, NOTE_LIFE]
    at = utcformat(now())
    for post in posts:
        commands = list(commands_for(post.job, post.queue, at))
        key = post.queue.job_class.key_for(post.job.id)
        given += (post.entry, post.queue.key, key, int(post.job.is_unique), len(commands))
        for command in commands:
            given.append(len(command))
            given += command
    answers: list[Any] = script(keys=[notes.key], args=given)
    return [as_text(answer) or "" for answer in answers]


def commands_for(made: MadeJob, queue: Queue, at: str) -> Iterator[RedisCommand]:
    """Yield the commands with which RQ enqueues a job that depends on nothing.

    Args:
        made: The job.
        queue: Its queue.
        at: The time, as RQ writes it.
    """
    key = as_text(queue.job_class.key_for(made.id))
    yield ("SADD", queue.redis_queues_keys, queue.key)
    fields = {**made.fields, "status": "queued", "enqueued_at": at}
    yield ("HSET", key, *(part for field in fields.items() for part in field))
    if ttl := made.fields.get("ttl"):
        job = queue.job_class(id=made.id, connection=queue.connection)
        for one in (key, job.dependents_key, job.dependencies_key):
            yield ("EXPIRE", as_text(one), ttl)
    yield ("LPUSH" if made.at_front else "RPUSH", queue.key, made.id)


def effect_of(commands: Iterable[RedisCommand]) -> Any:
    """Return commands in a form in which those with the same effect are equal."""
    fields: dict[bytes, dict[bytes, bytes]] = {}
    others: set[tuple[bytes, ...]] = set()
    for name, key, *rest in commands:
        parts = [_as_bytes(part) for part in rest]
        if name == "HSET":
            found = fields.setdefault(_as_bytes(key), {})
            found.update(zip(parts[::2], parts[1::2], strict=True))
        else:
            others.add((_as_bytes(name), _as_bytes(key), *parts))
    return fields, others


def _as_bytes(part: Any) -> bytes:
    value = part.value if isinstance(part, Enum) else part
    return value if isinstance(value, bytes) else str(value).encode()
