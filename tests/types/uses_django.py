"""What users of Django write, which type checkers must accept."""

from datetime import date, timedelta
from typing import Any, assert_type

from django.db import models
from django.dispatch import receiver

from pgnotifier.contrib.django import (
    Channel,
    NotifyOn,
    apublish,
    apublish_many,
    notify_on,
    publish,
    publish_many,
)
from pgnotifier.contrib.django.test import captureNotifications, liveNotifications
from pgnotifier.durable import MaxLag

orders = Channel("orders")
entries = Channel("entries", using="audit")
parcels = Channel("parcels", durable=True)
limited = Channel(
    "limited",
    durable=True,
    start="oldest",
    max_attempts=3,
    on_failure="stop",
    max_lag=MaxLag(entries=7),
    max_age=timedelta(minutes=5),
)


class Order(models.Model):
    """A model with a trigger that notifies of its changes."""

    status: "models.CharField[str, str]" = models.CharField(max_length=20)

    class Meta:
        app_label = "shop"
        constraints = [NotifyOn(orders, update=["status"], new=["status"])]


notify_on(Order, insert=True, update=["status"], delete=True, channel=orders, old=True)


@receiver(orders)
def recount(sender: Any, payload: Any, **kwargs: Any) -> None:
    """Be called in the process that listens."""


@orders.connect(sender=Order)
async def push(sender: type[Order], payload: dict[str, Any], **kwargs: Any) -> None:
    """Be called with the changes of one model."""


@orders.task(id="invoice", queue="low", batch=(500, 2.0))
def invoice(sender: Any, payload: Any, **kwargs: Any) -> int:
    """Become a task."""
    return 1


assert_type(invoice(None, 1), int)  # the decorator keeps the function's type
orders.connect(recount, weak=False, dispatch_uid="recount")
orders.gap.connect(recount)
orders.notify({"at": date.today()})
entries.notify(object(), encoder=str)


parcels.notify([1, 2], key="7")
assert_type(parcels.publish({"id": 7}, "7", order="key"), int)
assert_type(publish("parcels", {"id": 7}, using="audit"), int)
assert_type(publish_many(parcels, [1, 2], key=str), list[int])
notify_on(Order, channel=parcels, durable=True)


async def send() -> None:
    """Send in a coroutine."""
    await orders.anotify([1, 2])
    assert_type(await apublish("parcels", 1), int)
    await apublish_many("parcels", [1, 2])


with captureNotifications(execute=True) as sent:
    print([one.payload for one in sent])

with liveNotifications() as live:
    live.wait_for(1)
