"""Record what workers and the listener do, in a stream of the demo's Valkey."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import redis
from celery import current_task
from celery.signals import worker_ready

from pgnotifier import Gap

QUEUE = "pgnotifier-demo"
STREAM = "pgnotifier-demo:records"
BROKER_VARIABLE = "PGNOTIFIER_DEMO_BROKER_URL"


def record_execution(channel: str, payload: Any) -> None:
    """Record, in a task, which process runs it, and when it began."""
    began_at = time.time()
    request: Any = current_task.request
    worker = request.hostname.partition("@")[0]
    _record("executed", channel=channel, payload=payload, worker=worker, at=began_at)


def record_gap(gap: Gap) -> None:
    """Record, in the listener, a gap that it reports."""
    _record("gap", since=gap.since.timestamp(), until=gap.until.timestamp(), reason=gap.reason)


@worker_ready.connect
def record_worker(sender: Any, **_: Any) -> None:
    """Record that a worker is ready for tasks."""
    _record("ready", worker=sender.hostname.partition("@")[0])


def _record(kind: str, **fields: Any) -> None:
    record = {"kind": kind, "pid": os.getpid(), **fields}
    _client().xadd(STREAM, {"record": json.dumps(record)})


@cache
def _client() -> "redis.Redis":
    return redis.Redis.from_url(os.environ[BROKER_VARIABLE])


class Records:
    """The stream, as the demo's main process reads it."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._last = "0"
        self._clear()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the new records."""
        # Without `block`: the server checks timeouts only ten times a second.
        found: Any = self._client.xread({STREAM: self._last}, count=500)
        for _, entries in found or ():
            for number, fields in entries:
                self._last = number
                yield json.loads(fields[b"record"])

    def close(self) -> None:
        """Delete the stream, because the server may be an external one."""
        with contextlib.suppress(redis.RedisError):  # the server may be down
            self._clear()
        self._client.close()

    def _clear(self) -> None:
        # Also what an earlier demo has left, because its tasks would be counted in this one.
        self._client.delete(STREAM, QUEUE, *self._client.scan_iter(f"_kombu.binding*.{QUEUE}"))
