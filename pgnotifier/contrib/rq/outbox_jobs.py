"""Define how a job is stored in the durable log: as an entry's key and payload.

    payload       its JSON: the job's id, the function's name, when and where to enqueue it, and the
                  fields that RQ writes to Redis; "binary" has those that are bytes, as base64
    key           the name of its queue, for those who look into the log

The payload of a job that was enqueued from SQL has the arguments of `pgnotifier.enqueue_job()`
instead.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any

import msgspec
from rq import Queue

from pgnotifier._log.composing import Draft
from pgnotifier.contrib._queues.requests import read_request
from pgnotifier.contrib.rq.errors import JobFormatError

CHANNELS = "pgnotifier:rq:"
"""The prefix of the log's channels with jobs."""

MOST_FIELDS = 1000
"""The most fields of a job: many more than RQ writes, and fewer than a script of Redis can take."""

Field = str | int | float | bytes


def channel_of(name: str) -> str:
    """Return the log's channel for the jobs of an outbox."""
    return CHANNELS + name


def subscription_of(name: str) -> str:
    """Return the name of the subscription of an outbox's relay."""
    return f"outbox:rq:{name}"


class MadeJob(msgspec.Struct, frozen=True, gc=False):
    """A job that RQ has made, and how it is to be enqueued.

    Attributes:
        function: The name of its function.
        id: Its id.
        queue: The name of its queue.
        fields: What RQ writes to the job's key.
        at_front: Whether it goes ahead of those in the queue.
        is_unique: Whether it is left out if a job with its id exists.
        at: When it is to be enqueued, if it is scheduled.
        group: The name of RQ's group that it is added to.
    """

    function: str
    id: str
    queue: str
    fields: Mapping[str, Field]
    at_front: bool = False
    is_unique: bool = False
    at: datetime | None = None
    group: str | None = None

    def __repr__(self) -> str:  # without the fields, as they have the arguments
        return f"<MadeJob {self.id!r} of {self.function!r} for queue {self.queue!r}>"

    @property
    def is_plain(self) -> bool:
        """Whether it just goes to its queue, at once, whatever else is in Redis."""
        no_more = self.at is None and self.group is None
        return no_more and self.fields.keys().isdisjoint(_DECIDING)


_DECIDING = frozenset({"dependency_ids", "dependency_id", "rate_limit_key"})


class JobRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A job that was enqueued from SQL, with `pgnotifier.enqueue_job()`.

    The attributes are the arguments of that function.
    """

    function: str
    id: str | None = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    queue: str | None = None
    at: datetime | None = None
    timeout: int | None = None
    result_ttl: int | None = None
    failure_ttl: int | None = None
    ttl: int | None = None
    description: str | None = None
    meta: dict[str, Any] | None = None

    def __repr__(self) -> str:  # without the arguments
        return f"<JobRequest {self.id!r} of {self.function!r} for queue {self.queue!r}>"


class _Entry(msgspec.Struct, gc=False, omit_defaults=True):
    function: str
    id: str
    queue: str
    job: dict[str, str | int | float]
    binary: dict[str, bytes] = {}
    at_front: bool = False
    unique: bool = False
    at: datetime | None = None
    group: str | None = None


def make(
    job: Any,
    queue: Queue,
    *,
    at_front: bool = False,
    is_unique: bool = False,
    at: datetime | None = None,
    group: str | None = None,
) -> MadeJob:
    """Return a job in the form in which it is kept.

    Args:
        job: A job of RQ.
        queue: The queue that it is for.
        at_front: Whether it goes ahead of those in the queue.
        is_unique: Whether it is left out if a job with its id exists.
        at: When it is to be enqueued, if it is scheduled. Without a time zone, it is local.
        group: The name of RQ's group that it is added to.

    Raises:
        JobFormatError: Redis can't store a field.
        Exception: The job can't be serialized. The type depends on its serializer.
    """
    fields: dict[str, Field] = {}
    for name, given in job.to_dict().items():
        value = given.value if isinstance(given, Enum) else given
        if not isinstance(value, Field) or isinstance(value, bool):
            raise JobFormatError(
                f"the field {name!r} of a job must be text, a number or bytes, not "
                f"{type(value).__name__}"
            )
        fields[name] = _check_unicode(name, value)
    fields["origin"] = queue.name
    at = at.astimezone() if at is not None else None
    kept = str(job.func_name), job.id, queue.name, fields
    return MadeJob(*kept, at_front, is_unique, at, group)


def _check_unicode(name: str, value: Field) -> Field:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise JobFormatError(
                f"the field {name!r} of a job contains a lone surrogate; it must be valid Unicode"
            ) from None
    return value


def draft(made: MadeJob) -> Draft:
    """Return the key and the payload of the entry for a job."""
    texts = {name: one for name, one in made.fields.items() if not isinstance(one, bytes)}
    binary = {name: one for name, one in made.fields.items() if isinstance(one, bytes)}
    kept = made.function, made.id, made.queue, texts, binary
    entry = _Entry(*kept, made.at_front, made.is_unique, made.at, made.group)
    # Plain ASCII, as the database may have any encoding.
    return made.queue, json.dumps(msgspec.to_builtins(entry), separators=(",", ":"))


_UNREADABLE = (msgspec.DecodeError, UnicodeEncodeError, RecursionError)
_read_entry = msgspec.json.Decoder(_Entry).decode
_read_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read(text: str) -> MadeJob | JobRequest:
    """Return what an entry of the outbox holds.

    Raises:
        JobFormatError: It is neither a job nor a request.
    """
    try:
        entry = _read_entry(text)
    except _UNREADABLE as exc:
        return _read_other(text, exc)
    fields: dict[str, Field] = {**entry.job, **entry.binary}
    if not isinstance(fields.get("ttl", 1), int) or len(fields) > MOST_FIELDS:
        raise JobFormatError("the fields of the job aren't those that RQ would write")
    kept = entry.function, entry.id, entry.queue, fields
    return MadeJob(*kept, entry.at_front, entry.unique, entry.at, entry.group)


def _read_other(text: str, problem: Exception) -> JobRequest:
    try:
        names = _read_names(text).keys()
        if "job" not in names and "function" in names:
            return read_request(text, JobRequest)
    except _UNREADABLE as exc:
        problem = exc
    # msgspec names types and places, and never a value.
    raise JobFormatError(
        f"this is neither a job of RQ's nor one that SQL has asked for: {problem}"
    ) from None
