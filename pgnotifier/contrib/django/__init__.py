"""Receive notifications as Django signals, or have workers run tasks for them.

    INSTALLED_APPS += ["pgnotifier.contrib.django"]

    # shop/notifications.py; a module of this name is imported from each app
    orders = Channel("orders")

    @orders.connect
    def recount(sender, payload, **kwargs): ...

    @orders.task(id="invoice", queue="low")
    def invoice(sender, payload, **kwargs): ...

`manage.py pgnotifier` listens; `orders.notify(payload)` sends when the transaction commits.

    model -> trigger  -> NOTIFY -> listener      -> Channel         -> receivers
             triggers              notifiers, one   channels, which    or running, in a
             in migrations         per database     are signals        worker of tasks
"""

from pgnotifier.contrib import naming_extra

with naming_extra("django"):
    from pgnotifier.contrib.django.channels import Channel
    from pgnotifier.contrib.django.once import once
    from pgnotifier.contrib.django.publishing import (
        apublish,
        apublish_many,
        publish,
        publish_many,
    )
    from pgnotifier.contrib.django.triggers import NotifyOn, notify_on

__all__ = [
    "Channel",
    "NotifyOn",
    "apublish",
    "apublish_many",
    "notify_on",
    "once",
    "publish",
    "publish_many",
]
