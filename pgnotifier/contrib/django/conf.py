"""Read and check the Django setting `PGNOTIFIER = {...}`."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgnotifier._runtime.redaction import redact
from pgnotifier._runtime.suggestions import find_nearest
from pgnotifier.settings import OUTBOX_SETTINGS, Setting, is_filled, patterns, seconds
from pgnotifier.settings import SETTINGS as CORE_SETTINGS

_PATH = re.compile(r"[\w.]+(?::[\w.]+)?")
KINDS = ("celery", "rq", "tasks", "inline")


class Problem(NamedTuple):
    """The message of a problem, and a hint about what to do."""

    message: str
    hint: str


def _is_hook(value: Any) -> bool:
    return callable(value) or is_filled(value)


def _is_outbox(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(is_filled, value))
    return isinstance(value, bool) or is_filled(value)


def _is_redact(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(one, str) for one in value)
    return _is_hook(value)


_ALIAS = "an alias of DATABASES"
_CALLABLE = "a callable or the path of one"
_NAMES = (
    *("standby", "health_port", "health_host", "heartbeat", "heartbeat_timeout", "buffer_size"),
    *("buffer_bytes", "overflow", "drain_timeout", "answers", "remote_commands"),
)
SETTINGS: Mapping[str, Setting] = {
    "DATABASE": Setting(_ALIAS, is_filled, "default"),
    "DISPATCHER": Setting(
        "'celery', 'rq', 'tasks', 'inline', or a callable that returns a Dispatcher, or its path",
        _is_hook,
    ),
    "CELERY_APP": Setting("the path of a Celery app: 'shop.celery.app'", is_filled),
    "OUTBOX": Setting("True, False, an alias of DATABASES, or a list of them", _is_outbox),
    **{name.upper(): setting for name, setting in OUTBOX_SETTINGS.items()},
    "OUTBOX_EXCLUDE": patterns(),
    "OUTBOX_REDACT": Setting(
        "a callable or the path of one, or a list of the names of arguments", _is_redact
    ),
    "RQ_QUEUE": Setting(
        "the URL of a Redis server, a Queue or connection, or the path of one or of a callable "
        "that returns one",
        lambda value: value is not None,
        "redis://localhost:6379/0",
        is_secret=True,
    ),
    "TASKS_BACKEND": Setting("an alias of TASKS", is_filled, "default"),
    "ON_GAP": Setting(_CALLABLE, _is_hook),
    "ON_ERROR": Setting(_CALLABLE, _is_hook),
    "ADMIN_TIMEOUT": seconds(10.0, 3600.0),
    **{name.upper(): CORE_SETTINGS[name] for name in _NAMES},
}


def get(name: str) -> Any:
    """Return the value of a setting, or its default."""
    given = getattr(django_settings, "PGNOTIFIER", {})
    value = given.get(name) if isinstance(given, Mapping) else None
    return SETTINGS[name].default if value is None else value


def outbox_aliases() -> tuple[str, ...]:
    """Return the aliases of the databases where transactions publish tasks."""
    value = get("OUTBOX")
    if value is True:
        return (str(get("DATABASE")),)
    if isinstance(value, str):
        return (value,)
    return tuple(value or ())


def get_imported(name: str) -> Any:
    """Return the value of a setting; if it is a path, import it.

    Raises:
        ImproperlyConfigured: The path can't be imported.
    """
    value = get(name)
    if not isinstance(value, str):
        return value
    if not _PATH.fullmatch(value):  # don't show it: it may be a URL with a password
        raise ImproperlyConfigured(
            f"PGNOTIFIER[{name!r}] must be the path of something in a module, like "
            "'shop.queues.make'"
        )
    try:
        return import_string(value.replace(":", "."))
    except Exception as exc:  # noqa: BLE001 - the module may raise anything
        # What looks like a path may be the address of a server with a password.
        reason = "the path can't be imported" if name == "RQ_QUEUE" else redact(exc)
        raise ImproperlyConfigured(f"PGNOTIFIER[{name!r}]: {reason}") from (
            exc if reason == str(exc) else None
        )


def runs_checks() -> bool:
    """Return whether this process is a management command, which runs Django's checks."""
    program = Path(sys.argv[0] if sys.argv else "")
    names = ("manage.py", "django-admin")
    return program.name in names or program.parts[-2:] == ("django", "__main__.py")


def check_settings() -> list[tuple[str, Problem]]:
    """Return the problems of the settings' names and values, each with the id of its check."""
    given = getattr(django_settings, "PGNOTIFIER", {})
    if not isinstance(given, Mapping):
        return [("E001", Problem("PGNOTIFIER must be a dict.", f"It is {type(given).__name__}."))]
    found = []
    for name, value in given.items():
        setting = SETTINGS.get(name)
        if setting is None:
            near = find_nearest(str(name).upper(), SETTINGS)
            hint = f"Did you mean {near!r}?" if near else f"There are {', '.join(SETTINGS)}."
            found.append(("E002", Problem(f"PGNOTIFIER has no setting {name!r}.", hint)))
        elif value is not None and (wrong := setting.find_problem(value)) is not None:
            problem = Problem(f"PGNOTIFIER[{name!r}] {wrong}.", setting.explain())
            found.append(("E003", problem))
    return found
