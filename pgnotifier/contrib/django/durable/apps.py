"""Define the Django app that has migrations for the log, and pages for the admin."""

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import pre_migrate


class DurableLogConfig(AppConfig):
    """The app `pgnotifier_durable`."""

    name = "pgnotifier.contrib.django.durable"
    label = "pgnotifier_durable"
    verbose_name = "PostgreSQL notifications: the durable log"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have `migrate` install the log even if the project has disabled migrations."""
        pre_migrate.connect(
            _install_without_migrations,
            sender=self,
            dispatch_uid="pgnotifier.install_without_migrations",
        )


def _install_without_migrations(using: str, **_: Any) -> None:
    """Install the log if `MIGRATION_MODULES` has None for this app.

    Projects do so in tests, and `pytest --nomigrations` does it for all apps, because tables can be
    made from models. The log can't be made from a model.
    """
    from django.db.migrations.loader import MigrationLoader

    from pgnotifier._log.installing import install
    from pgnotifier.contrib.django.durable.operations import belongs, open_driver

    label = DurableLogConfig.label
    module, _is_explicit = MigrationLoader.migrations_module(label)
    if module is None and belongs(label, connections[using]):
        install(open_driver(connections[using]))
