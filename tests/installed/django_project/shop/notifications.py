"""The app's channel, and a receiver for it."""

from django.dispatch import receiver

from pgnotifier.contrib.django import Channel

orders = Channel("orders")


@receiver(orders)
def recount(sender, payload, **kwargs):
    print(f"recounting {payload}", flush=True)
