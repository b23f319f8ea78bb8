"""Receivers and tasks, which the package imports from every app. They record their calls."""

from django.dispatch import receiver

from pgnotifier.contrib.django import Channel
from shop.models import notes, orders

calls = []
found = Channel("found")


@receiver(orders)
def take_order(sender, payload, **kwargs):
    """Record the call."""
    calls.append(("order", sender, payload, kwargs))


@notes.connect
def take_note(sender, payload, **kwargs):
    """Record the call."""
    calls.append(("note", sender, payload, kwargs))


@found.task(id="work")
def work(sender, payload, **kwargs):
    """Record the call, as a task."""
    calls.append(("work", sender, payload, kwargs))


@found.task(id=("work", "async"))
async def work_asynchronously(sender, payload, **kwargs):
    """Record the call, as an async task."""
    calls.append(("async", sender, payload, kwargs))
