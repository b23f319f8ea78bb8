"""Who is told of what. Workers import this for the tasks; only the listener connects."""

import logging
from collections import Counter
from collections.abc import Hashable
from typing import Any

from pgnotifier import Gap, InlineDispatcher, Notification, Subscription
from pgnotifier.contrib.celery import CeleryNotifier
from shop.celery import app
from shop.database import execute
from shop.tasks import audit

logger = logging.getLogger(__name__)


def catch_up(gap: Gap) -> None:
    """Notifications may have been missed: have everything done that is still open."""
    logger.warning("looking for what was missed between %s and %s", gap.since, gap.until)
    execute(
        "SELECT pg_notify('order_placed', to_json(o)::text) FROM orders o WHERE invoiced_at IS NULL"
    )
    execute(
        "SELECT pg_notify('image_uploaded', to_json(i)::text) FROM images i WHERE thumbnail IS NULL"
    )


def complain(error: BaseException, subscription: Subscription, notification: Notification) -> None:
    """A delivery failed here in the listener; what fails in a worker is Celery's to tell."""
    logger.error("%r could not take %r: %s", subscription.id, notification.raw, error)


notifier = CeleryNotifier(app, on_gap=catch_up, on_error=complain)


@notifier.on("image_uploaded", id="resize")  # the task "pgnotifier.resize", on the queue "images"
def resize(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Make an image's thumbnail."""
    name = f"{payload['path']}.thumbnail"
    execute("UPDATE images SET thumbnail = %s WHERE id = %s", (name, payload["id"]))


@notifier.on("order_placed", id=("orders", "invoice"), expires=3600)  # "pgnotifier.orders.invoice"
def invoice(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Write an order's invoice. Done twice, it changes nothing more."""
    execute(
        "UPDATE orders SET invoiced_at = now() WHERE id = %s AND invoiced_at IS NULL",
        (payload["id"],),
    )


# A task that was there before, as it is, on another queue and with an argument of its own.
notifier.subscribe("audit", "order_placed", audit.s("orders").set(queue="low"))

seen: Counter[str] = Counter()


@notifier.on(["image_uploaded", "order_placed"], id="count", dispatcher=InlineDispatcher())
def count(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Count, in the listener itself: too little work to send anywhere."""
    seen[channel] += 1
    logger.info("counted %d on %s", seen[channel], channel)
