"""The model of orders. PostgreSQL notifies when any program changes one."""

from django.db import models

from pgnotifier.contrib.django import Channel, notify_on

orders = Channel("orders")


class Order(models.Model):
    """An order of one item."""

    item = models.CharField(max_length=100)
    status = models.CharField(max_length=20, default="new")
    note = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"{self.pk}: {self.item}"


notify_on(
    Order, insert=True, update=["status"], delete=True, channel=orders, new=["item", "status"]
)
