"""The receivers for orders. pgnotifier imports this module, because the app is installed."""

from typing import Any

from orders.models import Order, orders


@orders.task(id="invoice")  # the Celery task "pgnotifier.invoice"
def invoice(sender: type[Order], payload: dict[str, Any], **kwargs: Any) -> None:
    """Invoice a new order. Running it twice has no further effect."""
    if payload["operation"] == "insert":
        Order.objects.filter(pk=payload["pk"], status="new").update(status="invoiced")
