"""The Celery app and the notifier of the demo, as a user would write them.

celery -A pgnotifier.demo.app worker        executes
celery -A pgnotifier.demo.app pgnotifier    listens
"""

import os
from collections.abc import Hashable
from typing import Any

from celery import Celery

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.demo.recording import QUEUE, record_execution, record_gap

app = Celery("demo", broker=os.environ["PGNOTIFIER_DEMO_BROKER_URL"])
app.conf.task_default_queue = QUEUE
app.conf.worker_enable_remote_control = False  # not needed, and it leaves keys in the broker

notifier = Notifier(
    os.environ["PGNOTIFIER_DEMO_DSN"], dispatcher=CeleryDispatcher(app), on_gap=record_gap
)


@notifier.on("orders", id="board")
def board(id: Hashable, channel: str, payload: Any, pid: int) -> None:  # noqa: ARG001
    """Show a new order on a board: the task `pgnotifier.board`."""
    record_execution(channel, payload)


@notifier.on("paid", id="invoice", durable=True)
def invoice(id: Hashable, channel: str, payload: Any, pid: int) -> None:  # noqa: ARG001
    """Invoice an order, which none may miss: the task `pgnotifier.invoice`."""
    record_execution(channel, payload)


@notifier.on("ch1", id=42)
def show(id: Hashable, channel: str, payload: Any, pid: int) -> None:  # noqa: ARG001
    """Show any payload: the task `pgnotifier.42`."""
    record_execution(channel, payload)
