"""Models: what listeners tell of themselves, for the admin."""

from datetime import datetime, timedelta

from django.db import models
from django.utils import timezone

SILENT = timedelta(seconds=30)
"""After so long without a word a listener counts as gone."""


class Listener(models.Model):
    """A process of `manage.py pgnotifier`, for one database; written by itself every few seconds.

    Attributes:
        name: The machine, the process and the database's alias.
        status: `Notifier.status()`.
        channels: What it hears: dicts of `channel`, `receivers`, `tasks`.
        gaps: The latest, each as `Gap.to_dict()`.
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
        """Whether it hasn't been heard of lately, and didn't say that it would stop."""
        return self.state != "stopped" and timezone.now() - self.seen_at > SILENT
