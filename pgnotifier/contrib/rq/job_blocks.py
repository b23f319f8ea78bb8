"""Capture what a `with outbox(…):` block enqueues, on any of RQ's queues.

RQ has no object that all queues share, as Celery has its app. So the enqueuing methods of its
classes, and of your subclasses, are replaced when the first block begins. Outside of blocks they do
what they did before. In a block, they use a copy of the queue that keeps the jobs from Redis:

    queue.enqueue -> find_recording -> JobCapture -> the same method of the copy -> Recording
"""

import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from rq import Queue
from rq.group import Group

from pgnotifier.contrib._queues.recordings import Recording, find_recording, is_suspended
from pgnotifier.contrib.rq.job_capture import Catching, JobCapture, check_pipeline
from pgnotifier.contrib.rq.outbox_jobs import draft
from pgnotifier.errors import ConfigurationError

_ENTRANCES = (
    *("enqueue", "enqueue_call", "enqueue_at", "enqueue_in", "enqueue_many", "enqueue_job"),
    "schedule_job",
)
_IS_REPLACED = "_pgnotifier_replaced"
_THIS_HOST = frozenset({"localhost", "::1"})
_lock = threading.Lock()


class OwningRedis:
    """The Redis of an outbox: blocks take what is enqueued on its queues."""

    def __init__(self, connection: Any) -> None:
        """Remember where a connection leads to."""
        self._connection = connection

    def has(self, connection: Any) -> bool:
        """Return whether another connection leads to the same database of the same server."""
        mine = self._connection
        return connection is mine or _find_place(connection) == _find_place(mine)


def _find_place(connection: Any) -> object:
    pool = connection.connection_pool
    given = pool.connection_kwargs
    database = int(given.get("db") or 0)
    if (service := getattr(pool, "service_name", None)) is not None:
        sentinels = pool.sentinel_manager.sentinels
        return service, database, frozenset(map(_find_place, sentinels))
    if path := given.get("path"):
        return path, database
    host = str(given.get("host") or "localhost").lower()
    port = int(given.get("port") or 6379)
    return "127.0.0.1" if host in _THIS_HOST else host, port, database


def capture_blocks() -> None:
    """Replace the methods that enqueue, in each class that has its own, unless that is done."""
    with _lock:
        for queue_class in _walk(Queue):
            if not issubclass(queue_class, Catching):
                for name in _ENTRANCES:
                    _replace(queue_class, name, _capture_queue)
        for group_class in _walk(Group):
            _replace(group_class, "enqueue_many", _capture_group)


def _walk(base: type[Any]) -> Iterator[type[Any]]:
    yield base
    for one in base.__subclasses__():
        yield from _walk(one)


def _replace(owner: type, name: str, make: Callable[[Any, str], Any]) -> None:
    own = vars(owner).get(name)
    if callable(own) and not hasattr(own, _IS_REPLACED):
        replaced = make(own, name)
        setattr(replaced, _IS_REPLACED, True)
        setattr(owner, name, replaced)


def _find_recording(queue: Any) -> Recording | None:
    """Return the recording that takes the jobs of a queue now; None if they go to Redis."""
    if isinstance(queue, Catching) or is_suspended():
        return None

    def is_owner(owner: Any) -> bool:
        return isinstance(owner, OwningRedis) and owner.has(queue.connection)

    found = find_recording(is_owner)
    # A queue that runs its jobs at once still does so, as without an outbox.
    return found if found is not None and queue.is_async else None


def _capture_queue(function: Any, name: str) -> Any:
    @wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        recording = _find_recording(self)
        if recording is None:
            return function(self, *args, **kwargs)
        return _record(recording, JobCapture(self), name, *args, **kwargs)

    return method


def _capture_group(function: Any, name: str) -> Any:
    @wraps(function)
    def enqueue_many(self: Any, queue: Any, job_datas: Any, pipeline: Any = None) -> Any:
        recording = _find_recording(queue)
        if recording is None:
            return function(self, queue, job_datas, pipeline=pipeline)
        check_pipeline(pipeline)
        if not OwningRedis(queue.connection).has(self.connection):
            raise ConfigurationError(
                f"the group {self.name!r} isn't in the Redis of the queue {queue.name!r}, so an "
                "outbox can't add its jobs"
            )
        capture = JobCapture(queue, self.name)
        return _record(recording, capture, name, job_datas, group_id=self.name)

    return enqueue_many


def _record(recording: Recording, capture: JobCapture, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of the copy of a queue, and add the jobs that it has made."""
    result = getattr(capture.queue, name)(*args, **kwargs)
    for made in capture.take(len(result) if isinstance(result, list) else 1):
        recording.add(draft(made))
    return result
