"""The orders of the shop, and the task that each of them has."""

from celery import Celery
from django.db import models

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")


class Order(models.Model):
    """An order, in a table that the test has made."""

    way = models.TextField()
    number = models.IntegerField(primary_key=True)

    class Meta:
        managed = False
        db_table = "orders"

    def __str__(self):
        return f"{self.number} by {self.way}"


@app.task(name="invoice")
def invoice(way, number):
    """Do nothing: `tests.faults.shopping` has the worker."""
