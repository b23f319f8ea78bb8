"""What users of Celery write, which type checkers must accept."""

from collections.abc import Hashable
from typing import Any

from celery import Celery, chain

from pgnotifier import InlineDispatcher, Notifier
from pgnotifier.contrib.celery import CeleryDispatcher, CeleryNotifier, shared_subscription

app = Celery("shop", broker="redis://localhost:6379/0")
app.conf.pgnotifier_dsn = "postgresql://localhost/shop"
notifier = CeleryNotifier(app)
Notifier("dbname=shop", dispatcher=CeleryDispatcher(app, task_prefix="shop."))
CeleryNotifier(app, standby="shop", heartbeat=5)


@notifier.on("image_uploaded", id="resize", queue="images", priority=3)
def resize(id: str, channel: str, payload: Any, pid: int) -> None:
    """Become a task."""


@notifier.on("orders", task={"bind": True, "autoretry_for": (OSError,), "max_retries": 5})
def invoice(task: Any, id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Become a task that gets itself first."""


@shared_subscription(["orders", "stock"], queue="low")
def audit(id: Hashable, channel: str, payload: Any, pid: int) -> None:
    """Become a task of each app."""


@app.task
def fetch(*arguments: Any) -> int:
    """Be a task already."""
    return len(arguments)


notifier.subscribe("fetch", "orders", fetch)
notifier.subscribe("signature", "orders", fetch.s("x").set(queue="low"), countdown=5)
notifier.subscribe("canvas", "orders", chain(fetch.s(), fetch.si()))
notifier.subscribe("count", "orders", print, dispatcher=InlineDispatcher())
notifier.autodiscover(["shop.orders"])
notifier.autodiscover()
