"""The job of the RQ benchmarks: a function for the loops, and a subscription for pgnotifier."""

import os
from typing import Any

from redis import Redis
from rq import Queue

from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQDispatcher

DSN = os.environ["BENCH_DSN"]
CHANNEL = os.environ["BENCH_CHANNEL"]

queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_BROKER"]))
notifier = Notifier(DSN, dispatcher=RQDispatcher(queue))


def work(payload: Any) -> None:
    """Do nothing. No worker executes the jobs."""


@notifier.on(CHANNEL, id="bench")
def callback(_id: object, _channel: str, payload: Any, _pid: int) -> None:
    work(payload)
