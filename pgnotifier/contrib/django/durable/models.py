"""Describe tables of the log to Django, for the admin and its permissions.

Django neither makes these tables nor writes to them. The functions of the schema do.
"""

from typing import TYPE_CHECKING, Any

from django.db import models

from pgnotifier._log.outbox_queries import PREFIX

if TYPE_CHECKING:
    from datetime import datetime


class _NoRows(models.Manager[Any]):
    """Finds nothing.

    `dumpdata` reads the default manager of every model, and `loaddata` couldn't write what it finds
    here. In a database without a log, or with a role that may not read it, it would fail.
    """

    def get_queryset(self) -> "models.QuerySet[Any]":
        return super().get_queryset().none()


class DurableSubscription(models.Model):
    """A durable subscription, whether or not anybody reads it."""

    sub: "models.IntegerField[int, int]" = models.IntegerField("number", primary_key=True)
    name: "models.TextField[str, str]" = models.TextField("subscription")
    channel: "models.TextField[str, str]" = models.TextField()
    at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField("since")

    objects = _NoRows()
    rows: "models.Manager[DurableSubscription]" = models.Manager()

    class Meta:
        managed = False
        db_table = 'pgnotifier"."subscription'  # Django adds the outer quotes
        base_manager_name = "objects"
        default_permissions = ("view", "change", "delete")

    def __str__(self) -> str:
        return f"{self.name} on {self.channel}"


class DeadLetter(models.Model):
    """An entry that has failed. Unless it is `dead`, it is going to be retried."""

    n: "models.BigIntegerField[int, int]" = models.BigIntegerField("number", primary_key=True)
    subscription: "models.ForeignKey[DurableSubscription, DurableSubscription]" = models.ForeignKey(
        DurableSubscription, models.DO_NOTHING, db_column="sub", related_name="+"
    )
    entry: "models.BigIntegerField[int, int]" = models.BigIntegerField(db_column="id")
    published_at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField(db_column="at")
    channel: "models.TextField[str, str]" = models.TextField()
    key: "models.TextField[str | None, str | None]" = models.TextField(null=True)
    payload: "models.TextField[str, str]" = models.TextField()
    attempts: "models.IntegerField[int, int]" = models.IntegerField()
    retry_at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField()
    error: "models.TextField[str | None, str | None]" = models.TextField(null=True)
    traceback: "models.TextField[str | None, str | None]" = models.TextField(null=True)
    failed_at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField()
    dead: "models.BooleanField[bool, bool]" = models.BooleanField()

    objects = _NoRows()
    rows: "models.Manager[DeadLetter]" = models.Manager()

    class Meta:
        managed = False
        db_table = 'pgnotifier"."failed'
        base_manager_name = "objects"
        default_permissions = ("view", "change", "delete")

    def __str__(self) -> str:
        return f"{self.n}: entry {self.entry} on {self.channel}"


class Outbox(DurableSubscription):
    """The subscription of a relay. What the relay hasn't got yet waits in the outbox."""

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        proxy = True
        managed = False
        verbose_name_plural = "outboxes"
        default_permissions = ("view", "change", "delete")

    def __str__(self) -> str:
        return f"{self.channel.removeprefix(PREFIX)}, relayed by {self.name}"
