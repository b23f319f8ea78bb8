"""Define the Django app, which has migrations and no models."""

from django.apps import AppConfig


class DurableLogConfig(AppConfig):
    """The app `pgnotifier_durable`."""

    name = "pgnotifier.contrib.django.durable"
    label = "pgnotifier_durable"
    verbose_name = "PostgreSQL notifications: the durable log"
