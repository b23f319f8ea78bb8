"""Receive notifications about orders to record them, and about new audit entries to log them."""

import logging
from typing import Any

from django.dispatch import receiver

from audit.models import Entry, entries
from orders.models import Order, orders

logger = logging.getLogger(__name__)


@receiver(orders, sender=Order)  # called in the listener, in order: it does little work
def write_down(payload: dict[str, Any], **kwargs: Any) -> None:
    """Record what happened to an order."""
    status = payload.get("new", {}).get("status", "gone")
    Entry.objects.create(text=f"order {payload['pk']}: {payload['operation']}, {status}")


@entries.connect
def log_entry(payload: dict[str, Any], **kwargs: Any) -> None:
    """Log each entry, which comes from a notification of the other database."""
    logger.warning("audited: %s", payload["new"]["text"])
