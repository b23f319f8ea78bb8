"""The Celery app of the benchmarks: a task for the loops, and a subscription for pgnotifier.

Both do the same on a worker: record how long ago the notification was sent.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryDispatcher

DSN = os.environ["BENCH_DSN"]
BROKER = os.environ["BENCH_BROKER"]
CHANNEL = os.environ["BENCH_CHANNEL"]

app = Celery("bench", broker=BROKER)
notifier = Notifier(DSN, dispatcher=CeleryDispatcher(app))
output = os.open(os.environ.get("BENCH_OUTPUT", os.devnull), os.O_WRONLY | os.O_APPEND)


@app.task(name="bench", ignore_result=True)
def task(payload: Any) -> None:
    note(payload)


@notifier.on(CHANNEL, id="bench")
def callback(_id: object, _channel: str, payload: Any, _pid: int) -> None:
    note(payload)


def note(payload: Mapping[str, Any]) -> None:
    """Write one line: the number, and the latency in seconds."""
    # time.monotonic() is the machine's clock, which is the same in every process.
    os.write(output, f"{payload['n']} {time.monotonic() - payload['at']:.6f}\n".encode())
