"""Found in every app; what it takes down is what tests look at."""

from django.dispatch import receiver

from pgnotifier.contrib.django import Channel
from shop.models import notes, orders

calls = []
found = Channel("found")


@receiver(orders)
def take_order(sender, payload, **kwargs):
    """Take it down."""
    calls.append(("order", sender, payload, kwargs))


@notes.connect
def take_note(sender, payload, **kwargs):
    """Take it down."""
    calls.append(("note", sender, payload, kwargs))


@found.task(id="work")
def work(sender, payload, **kwargs):
    """Take it down, as a task."""
    calls.append(("work", sender, payload, kwargs))


@found.task(id=("work", "async"))
async def work_asynchronously(sender, payload, **kwargs):
    """Take it down, as an async task."""
    calls.append(("async", sender, payload, kwargs))
