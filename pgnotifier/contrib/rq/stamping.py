"""Make the commands that enqueue a job, from a template that RQ makes once per subscription.

For each job, RQ makes a Job object and serializes it field by field. Only the id, the arguments and
two times differ between the jobs of a subscription.
"""

import zlib
from collections.abc import Iterable, Mapping
from enum import Enum
from struct import pack
from typing import Any, NamedTuple

from rq import Queue
from rq.utils import as_text

RedisCommand = tuple[Any, ...]
"""A command to Redis: its name and its arguments."""

TIMES = ("created_at", "enqueued_at")
SHORT = 1024
"""The size in bytes up to which compressing costs more than it saves."""

_ID = "pgnotifier-0"


def record(
    queue: Queue, function: str, arguments: Any, job_id: str, settings: Mapping[str, Any]
) -> list[RedisCommand]:
    """Return the commands with which RQ enqueues a job.

    RQ asks the server for its version the first time. Nothing else is sent.
    """
    pipeline = queue.connection.pipeline()  # it is never executed
    data = queue.prepare_data(function, args=arguments, job_id=job_id, **settings)
    queue.enqueue_many([data], pipeline=pipeline)
    commands: list[RedisCommand] = [
        (name, as_text(key), *map(_plain, rest))  # RQ 2.0 has bytes for some keys
        for (name, key, *rest), _ in pipeline.command_stack
    ]
    registers = ("SADD", queue.redis_queues_keys, queue.key)  # RQ 2.0 doesn't send it
    return commands if registers in commands else [registers, *commands]


class RQStamp:
    """Makes the commands that enqueue the jobs of a subscription."""

    def __init__(self, queue: Queue, function: str, settings: Mapping[str, Any]) -> None:
        """Learn the commands from RQ.

        Args:
            queue: The queue.
            function: The path of the function to call.
            settings: Arguments of `Queue.prepare_data`.

        Raises:
            ValueError: RQ's commands aren't as expected; a class may have been replaced.
        """
        self._function = function
        self._dumps = queue.serializer.dumps
        self._namespace = as_text(queue.job_class.key_for(""))
        learnt = _take_apart(record(queue, function, (1,), _ID, settings), self._key(_ID), _ID)
        self._before, self._after = learnt.before, learnt.after
        changing = {"data", *TIMES}
        self._static = [
            part for name, value in learnt.fields.items() if name not in changing
            for part in (name, value)
        ]  # fmt: skip
        arguments, other = ("a", [None, 2.5]), "pgnotifier-1"
        theirs = record(queue, function, arguments, other, settings)
        ours = self.press(arguments, other, "")
        if self._normalize(ours, other) != self._normalize(theirs, other):
            raise ValueError("the commands that RQ makes differ from the stamp's")

    def press(
        self, arguments: Any, job_id: str, time: str, meta: Mapping[str, Any] | None = None
    ) -> list[RedisCommand]:
        """Return the commands that enqueue one job.

        Args:
            arguments: The arguments of the function.
            job_id: The id of the job.
            time: The time of enqueueing, as RQ writes it.
            meta: The job's `meta`, if it isn't the same for all.

        Raises:
            Exception: The arguments can't be serialized.
        """
        data = deflate(self._dumps((self._function, None, arguments, {})))
        times: list[str | bytes] = [part for name in TIMES for part in (name, time)]
        if meta is not None:
            times += ["meta", self._dumps(meta)]
        return [
            *self._before,
            ("HSET", self._key(job_id), *self._static, "data", data, *times),
            *(
                tuple(part.replace(_ID, job_id) if type(part) is str else part for part in command)
                for command in self._after
            ),
        ]

    def _key(self, job_id: str) -> str:
        return f"{self._namespace}{job_id}"

    def _normalize(self, commands: Iterable[RedisCommand], job_id: str) -> "_Parts":
        """Return commands in a form in which those with the same effect are equal."""
        parts = _take_apart(commands, self._key(job_id), job_id)
        fields = {**parts.fields, "data": zlib.decompress(parts.fields["data"])}
        return parts._replace(fields={**fields, **dict.fromkeys(TIMES)})


class _Parts(NamedTuple):
    """The commands before the job's fields, the fields, and the commands with the job's id."""

    before: list[RedisCommand]
    fields: dict[Any, Any]
    after: list[RedisCommand]


def _take_apart(commands: Iterable[RedisCommand], key: str, job_id: str) -> _Parts:
    parts = _Parts([], {}, [])
    for command in commands:
        if command[:2] == ("HSET", key):
            parts.fields.update(zip(command[2::2], command[3::2], strict=True))
        elif any(type(part) is str and job_id in part for part in command):
            parts.after.append(command)
        elif not parts.fields:
            parts.before.append(command)
        else:
            raise ValueError(f"RQ sends {command[0]} after a job's fields")
    if not {"data", *TIMES} <= parts.fields.keys():
        raise ValueError("RQ doesn't send the job's data and times")
    return parts


def _plain(part: Any) -> Any:
    return part.value if isinstance(part, Enum) else part


def deflate(data: bytes) -> bytes:
    """Return data in the format of `zlib.compress`.

    Short data is stored uncompressed: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.4.
    """
    size = len(data)
    if size > SHORT:
        return zlib.compress(data, 1)
    lengths = pack("<HH", size, size ^ 0xFFFF)
    return b"".join((b"\x78\x01\x01", lengths, data, pack(">I", zlib.adler32(data))))
