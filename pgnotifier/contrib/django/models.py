"""Define the table in which listeners report their status, for the admin."""

from datetime import datetime, timedelta

from django.db import models
from django.utils import timezone

SILENT = timedelta(seconds=30)
"""A listener that hasn't reported for this long counts as silent."""


class Listener(models.Model):
    """The status of a `manage.py pgnotifier` process for one database.

    The process writes it every few seconds.

    Attributes:
        name: The host name, the pid, and the alias of the database.
        status: The result of `Notifier.status()`.
        channels: The channels that it listens to: dicts of `channel`, `receivers` and `tasks`.
        gaps: The latest gaps, each as `Gap.to_dict()`.
    """

    name: "models.CharField[str, str]" = models.CharField(max_length=255, primary_key=True)
    database: "models.CharField[str, str]" = models.CharField(max_length=255)
    state: "models.CharField[str, str]" = models.CharField(max_length=20)
    started_at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField()
    seen_at: "models.DateTimeField[datetime, datetime]" = models.DateTimeField(db_index=True)
    received: "models.BigIntegerField[int, int]" = models.BigIntegerField(default=0)
    rate: "models.FloatField[float, float]" = models.FloatField("per second", default=0.0)
    errors: "models.BigIntegerField[int, int]" = models.BigIntegerField(default=0)
    status = models.JSONField(default=dict)
    channels = models.JSONField(default=list)
    gaps = models.JSONField(default=list)

    class Meta:
        ordering = ("-seen_at",)

    def __str__(self) -> str:
        return self.name

    @property
    def is_silent(self) -> bool:
        """Whether it hasn't reported lately, and didn't report that it stopped."""
        return self.state != "stopped" and timezone.now() - self.seen_at > SILENT
