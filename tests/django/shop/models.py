"""Models with triggers that notify of changes."""

from django.db import models

from pgnotifier.contrib.django import Channel, NotifyOn, notify_on

orders = Channel("orders")
notes = Channel("notes", using="second")
parcels = Channel("parcels", durable=True)


class Customer(models.Model):
    """A customer, who places orders."""

    name = models.CharField(max_length=50)


class Order(models.Model):
    """An order of an item."""

    customer = models.ForeignKey(Customer, models.CASCADE, null=True)
    item = models.CharField(max_length=50)
    status = models.CharField(max_length=20, default="new", db_column="order status")
    amount = models.DecimalField(max_digits=9, decimal_places=2, default=0)
    note = models.TextField(default="")


notify_on(
    Order,
    insert=True,
    update=["status", "customer"],
    delete=True,
    channel=orders,
    old=["status", "customer"],
    new=["status", "note"],
)


class Dated(models.Model):
    """An abstract model with a trigger."""

    text = models.CharField(max_length=9000)

    class Meta:
        abstract = True
        constraints = (NotifyOn("dated", old=True, new=True),)


class Letter(Dated):
    """A child model of `Dated`, with a column of its own."""

    extra = models.CharField(max_length=20, default="")

    class Meta(Dated.Meta):
        pass


class Note(models.Model):
    """A model in the second database."""

    text = models.CharField(max_length=50)

    class Meta:
        constraints = (NotifyOn(notes, update=False, delete=False, new=["text"]),)


class Parcel(models.Model):
    """A model with a durable trigger."""

    text = models.TextField()

    class Meta:
        constraints = (NotifyOn(parcels, new=True),)
