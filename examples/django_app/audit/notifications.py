"""The audit is told of orders, and others of the audit."""

import logging
from typing import Any

from django.dispatch import receiver

from audit.models import Entry, entries
from orders.models import Order, orders

logger = logging.getLogger(__name__)


@receiver(orders, sender=Order)  # called in the listener: little work, in the orders' order
def write_down(payload: dict[str, Any], **kwargs: Any) -> None:
    """Take down what happened to an order."""
    status = payload.get("new", {}).get("status", "gone")
    Entry.objects.create(text=f"order {payload['pk']}: {payload['operation']}, {status}")


@entries.connect
def tell(payload: dict[str, Any], **kwargs: Any) -> None:
    """Log each entry, which the other database has told of."""
    logger.warning("audited: %s", payload["new"]["text"])
