"""What workers and the listener write down for the demo: a stream in its Valkey."""

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
    """Write down, in a task, which process runs it, and when it began to."""
    began_at = time.time()
    request: Any = current_task.request
    worker = request.hostname.partition("@")[0]
    _record("executed", channel=channel, payload=payload, worker=worker, at=began_at)


def record_gap(gap: Gap) -> None:
    """Write down, in the listener, what it says that it may have missed."""
    _record("gap", since=gap.since.timestamp(), until=gap.until.timestamp(), reason=gap.reason)


@worker_ready.connect
def record_worker(sender: Any, **_: Any) -> None:
    """Write down that a worker takes tasks from now on."""
    _record("ready", worker=sender.hostname.partition("@")[0])


def _record(kind: str, **fields: Any) -> None:
    record = {"kind": kind, "pid": os.getpid(), **fields}
    _client().xadd(STREAM, {"record": json.dumps(record)})


@cache
def _client() -> "redis.Redis":
    return redis.Redis.from_url(os.environ[BROKER_VARIABLE])


class Records:
    """The demo's end of the stream."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._last = "0"
        self._clear()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the records that are new."""
        # Without `block`: the server looks at timeouts ten times a second only.
        found: Any = self._client.xread({STREAM: self._last}, count=500)
        for _, entries in found or ():
            for number, fields in entries:
                self._last = number
                yield json.loads(fields[b"record"])

    def close(self) -> None:
        """Delete what was written, in case that the server is the user's own."""
        with contextlib.suppress(redis.RedisError):  # it may be the reason for closing
            self._clear()
        self._client.close()

    def _clear(self) -> None:
        # Also of an earlier demo, whose tasks would be taken for this one's.
        self._client.delete(STREAM, QUEUE, *self._client.scan_iter(f"_kombu.binding*.{QUEUE}"))
