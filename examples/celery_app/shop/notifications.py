"""The subscriptions. Workers import this module for the tasks; only the listener connects."""

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
    """Notify again about all open work, because notifications may have been missed.

    Invoices are not among it: their subscription is durable, and misses nothing.
    """
    logger.warning("looking for what was missed between %s and %s", gap.since, gap.until)
    execute(
        "SELECT pg_notify('order_placed', to_json(o)::text) FROM orders o"
        " WHERE NOT EXISTS (SELECT FROM audits WHERE row_id = o.id)"
    )
    execute(
        "SELECT pg_notify('image_uploaded', to_json(i)::text) FROM images i WHERE thumbnail IS NULL"
    )


def complain(error: BaseException, subscription: Subscription, notification: Notification) -> None:
    """Log a delivery that failed in the listener. Celery reports what fails in a worker."""
    logger.error("delivering %r to %r failed: %s", notification.raw, subscription.id, error)


notifier = CeleryNotifier(app, on_gap=catch_up, on_error=complain)


@notifier.on("image_uploaded", id="resize")  # the task "pgnotifier.resize", on the queue "images"
def resize(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Make an image's thumbnail."""
    name = f"{payload['path']}.thumbnail"
    execute("UPDATE images SET thumbnail = %s WHERE id = %s", (name, payload["id"]))


# No order may be left without its invoice. So what is published on this channel waits in the
# database until it is a task, and the task waits in the broker until a worker has finished it.
@notifier.on("invoice_due", id="invoice", durable=True, start="oldest", task={"acks_late": True})
def invoice(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Invoice an order: the task "pgnotifier.invoice". Running it twice has no further effect."""
    execute(
        "UPDATE orders SET invoiced_at = now() WHERE id = %s AND invoiced_at IS NULL",
        (payload["id"],),
    )


# An existing task, unchanged, on another queue and with an extra argument.
notifier.subscribe("audit", "order_placed", audit.s("orders").set(queue="low"))

seen: Counter[str] = Counter()


@notifier.on(["image_uploaded", "order_placed"], id="count", dispatcher=InlineDispatcher())
def count(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Count in the listener itself, because this isn't worth a task."""
    seen[channel] += 1
    logger.info("counted %d on %s", seen[channel], channel)
