"""Who is told of orders. Found by pgnotifier, as this app is installed."""

from typing import Any

from orders.models import Order, orders


@orders.task(id="invoice")  # the Celery task "pgnotifier.invoice"
def invoice(sender: type[Order], payload: dict[str, Any], **kwargs: Any) -> None:
    """Write a new order's invoice. Done twice, it changes nothing more."""
    if payload["operation"] == "insert":
        Order.objects.filter(pk=payload["pk"], status="new").update(status="invoiced")
