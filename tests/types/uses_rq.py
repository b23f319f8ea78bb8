"""What users of RQ write, which type checkers must accept."""

from collections.abc import Hashable
from typing import Any

from redis import Redis
from rq import Queue, Retry

from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQDispatcher

Notifier(None, dispatcher=RQDispatcher(Redis()))
Notifier(None, dispatcher=RQDispatcher(Queue("images", connection=Redis())))
notifier = Notifier("dbname=shop", dispatcher=RQDispatcher("redis://localhost:6379/0"))


@notifier.on("image_uploaded", id="resize", queue="images", job_timeout=60, retry=3)
def resize(id: str, channel: str, payload: Any, pid: int) -> None:
    """Become a job."""


@notifier.on("orders", retry=Retry(max=3, interval=[1, 2]), batch=(500, 2.0))
def index(id: Hashable, channel: str, payload: list[Any], pid: int) -> None:
    """Become a job for each batch."""
