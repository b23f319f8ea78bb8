"""The subscriptions. Workers import this module for the functions; only the listener connects."""

import logging
from collections import Counter
from collections.abc import Hashable
from typing import Any

from redis import Redis

from pgnotifier import Gap, InlineDispatcher, Notifier
from pgnotifier.contrib.rq import RQDispatcher
from store.database import execute
from store.settings import DSN, REDIS
from store.shipping import outbox

logger = logging.getLogger(__name__)


def catch_up(gap: Gap) -> None:
    """Notify again about all open work, because notifications may have been missed."""
    logger.warning("looking for what was missed between %s and %s", gap.since, gap.until)
    execute(
        "SELECT pg_notify('order_placed', to_json(o)::text) FROM orders o WHERE invoiced_at IS NULL"
    )
    execute(
        "SELECT pg_notify('image_uploaded', to_json(i)::text) FROM images i WHERE thumbnail IS NULL"
    )


notifier = Notifier(DSN, dispatcher=RQDispatcher(Redis.from_url(REDIS)), on_gap=catch_up)
outbox.relay_to(notifier)


@notifier.on("image_uploaded", id="resize", queue="images", job_timeout=60)
def resize(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Make an image's thumbnail."""
    name = f"{payload['path']}.thumbnail"
    execute("UPDATE images SET thumbnail = %s WHERE id = %s", (name, payload["id"]))


@notifier.on("order_placed", id=("orders", "invoice"), retry=3)
def invoice(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Invoice an order. Running it twice has no further effect."""
    execute(
        "UPDATE orders SET invoiced_at = now() WHERE id = %s AND invoiced_at IS NULL",
        (payload["id"],),
    )


seen: Counter[str] = Counter()


@notifier.on(["image_uploaded", "order_placed"], id="count", dispatcher=InlineDispatcher())
def count(id: Hashable, channel: str, payload: dict[str, Any], pid: int) -> None:
    """Count in the listener itself, because this isn't worth a job."""
    seen[channel] += 1
    logger.info("counted %d on %s", seen[channel], channel)
