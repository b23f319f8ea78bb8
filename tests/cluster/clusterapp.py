"""The application that the clusters run; its tasks write what they receive to a Valkey server."""

import os
import time

import redis
from celery import Celery, current_task

from pgnotifier.contrib.celery import CeleryNotifier

QUEUE = os.environ["QUEUE"]
book = redis.Redis.from_url(os.environ["BOOK"])

app = Celery("cluster", include=["pytest_celery.vendors.worker.tasks"])
app.conf.update(
    broker_url=os.environ["BROKER"],
    result_backend=os.environ["BOOK"],
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=32,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 2} if "redis" in os.environ["BROKER"] else {},
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
notifier = CeleryNotifier(app)


def write(what, *facts):
    """Append the task's id and facts to the list `what`."""
    book.rpush(f"{QUEUE}:{what}", ascii((current_task.request.id, *facts)))


@notifier.on("odd", id=("odd", 1))
def odd(id, channel, payload, pid):
    """Write the task's name and all arguments."""
    write("odd", current_task.name, id, channel, payload, pid)


@notifier.on("load", id="load")
def load(id, channel, payload, pid):
    """Write the payload."""
    write("load", payload)


@notifier.on("slow", id="slow")
def slow(id, channel, payload, pid):
    """Hang in the first run; write the payload in later ones."""
    write("begun", payload, os.getppid())
    if book.llen(f"{QUEUE}:begun") == 1:
        time.sleep(600)
    write("slow", payload)


@notifier.on("routed", id="high")
def high(id, channel, payload, pid):
    """Write the payload, and which worker runs the task."""
    write("high", payload, current_task.request.hostname)


@notifier.on("routed", id="low", queue=f"{QUEUE}-low")
def low(id, channel, payload, pid):
    """Write the payload, and which worker runs the task."""
    write("low", payload, current_task.request.hostname)
