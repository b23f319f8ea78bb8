"""The model of audit entries."""

from django.db import models

from pgnotifier.contrib.django import Channel, NotifyOn

entries = Channel("entries", using="audit")


class Entry(models.Model):
    """Something that happened to an order."""

    text = models.CharField(max_length=200)

    class Meta:
        constraints = (NotifyOn(entries, update=False, delete=False, new=["text"]),)

    def __str__(self) -> str:
        return self.text
