"""Set up the Django project that a command line names, and find its notifiers."""

import os
import sys
from pathlib import Path
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

from pgnotifier._connection.parameters import Parameters, SuppliedParameters
from pgnotifier._notifier.autostart import hold_starts
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.notifiers import (
    NoCeleryAppError,
    all_notifiers,
    find_celery_app,
    find_parameters,
)
from pgnotifier.errors import ConfigurationError
from pgnotifier.notifier import Notifier


def find_project(settings: str, alias: str | None) -> tuple[Any, list[Notifier], Parameters]:
    """Set up a project; none of its notifiers starts.

    Args:
        settings: The module with its settings.
        alias: An alias of DATABASES; None for `PGNOTIFIER["DATABASE"]`.

    Returns:
        Its Celery app or None; its notifiers, the one of that database first; and the database's
        connection parameters.

    Raises:
        ConfigurationError: The settings are invalid, or the database isn't PostgreSQL.
    """
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    os.environ["DJANGO_SETTINGS_MODULE"] = settings
    try:
        with hold_starts():
            django.setup()
        chosen = str(conf.get("DATABASE")) if alias is None else alias
        find_parameters(chosen)
    except ImproperlyConfigured as exc:
        raise ConfigurationError(str(exc)) from exc
    known = all_notifiers()
    first = [known.pop(chosen)] if chosen in known else []
    parameters = SuppliedParameters(lambda: find_parameters(chosen))
    parameters.resolve()  # so that its repr shows the database
    return _find_app(), [*first, *known.values()], parameters


def _find_app() -> Any:
    try:
        return find_celery_app("tasks are checked")
    except (NoCeleryAppError, ImproperlyConfigured):
        return None
