"""Define the Django app, which imports the project's receivers and registers checks."""

import logging
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_migrate
from django.utils.module_loading import autodiscover_modules

from pgnotifier._runtime.log_records import about
from pgnotifier.errors import PgNotifierError

logger = logging.getLogger("pgnotifier.django")


class PgNotifierConfig(AppConfig):
    """The app `pgnotifier`."""

    name = "pgnotifier.contrib.django"
    label = "pgnotifier"
    verbose_name = "PostgreSQL notifications"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import the module `notifications` of every app that has one."""
        from pgnotifier.contrib.django import checks
        from pgnotifier.contrib.django.channels import Channel
        from pgnotifier.contrib.django.conf import check_settings, runs_checks
        from pgnotifier.contrib.django.upkeep import drop_orphans, refresh_triggers

        register(checks.check_configuration)
        register(checks.check_databases, Tags.database)
        register(checks.check_table, Tags.database)
        register(checks.check_log, Tags.database)
        register(checks.check_models)
        post_migrate.connect(refresh_triggers, dispatch_uid="pgnotifier.refresh_triggers")
        post_migrate.connect(drop_orphans, dispatch_uid="pgnotifier.drop_orphans")
        problems = check_settings()
        for _, problem in problems:  # for processes that don't run checks, such as workers
            logger.log(
                logging.DEBUG if runs_checks() else logging.ERROR,
                "no notification will be received: %s %s",
                problem.message,
                problem.hint,
                extra=about("not_configured"),
            )
        if not problems:
            autodiscover_modules("notifications")
            Channel.start_subscribing()
            _subscribe_in_workers()
            _enable_outbox()


def _enable_outbox(**_: Any) -> None:
    """Publish tasks in transactions; try again in workers, as the Celery app may be made later."""
    from pgnotifier.contrib.django.conf import runs_checks
    from pgnotifier.contrib.django.outboxes import enable_outbox

    try:
        enable_outbox()
    except (ImproperlyConfigured, PgNotifierError) as exc:
        logger.log(
            logging.DEBUG if runs_checks() else logging.ERROR,
            "tasks are published without regard to transactions: %s",
            exc,
            extra=about("not_configured"),
        )
        if find_spec("celery"):
            from celery.signals import import_modules

            import_modules.connect(_enable_outbox, dispatch_uid="pgnotifier.outbox")


def _subscribe_in_workers() -> None:
    """Subscribe again in Celery's workers, because a project may make its Celery app later."""
    from pgnotifier.contrib.django import conf
    from pgnotifier.contrib.django.channels import find_task_problems

    # If Celery isn't installed, subscribing again can't help.
    if conf.get("DISPATCHER") == "celery" and find_task_problems() and find_spec("celery"):
        from celery.signals import import_modules

        import_modules.connect(_subscribe, dispatch_uid="pgnotifier.subscribe")


def _subscribe(**_: Any) -> None:
    from pgnotifier.contrib.django.channels import find_task_problems

    find_task_problems()
