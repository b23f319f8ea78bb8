"""Settings: what `PGNOTIFIER = {...}` may say, checked."""

import difflib
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgnotifier.buffer import BUFFER_BYTES
from pgnotifier.foreground import DRAIN_TIMEOUT
from pgnotifier.publisher import MAX_PAYLOAD_BYTES
from pgnotifier.redaction import redact, show

_PATH = re.compile(r"[\w.]+(?::[\w.]+)?")
KINDS = ("celery", "rq", "tasks", "inline")


class Setting(NamedTuple):
    """What a setting may be.

    Attributes:
        default: What it is, unless set.
        expected: What is expected, in words.
        accepts: Whether a value will do.
    """

    default: Any
    expected: str
    accepts: Callable[[Any], bool]


class Problem(NamedTuple):
    """What is wrong, and what to do."""

    message: str
    hint: str


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_hook(value: Any) -> bool:
    return callable(value) or _is_text(value)


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and value > 0 and math.isfinite(value)


def _is_count(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


_ALIAS = "an alias of DATABASES"
SETTINGS: Mapping[str, Setting] = {
    "DATABASE": Setting("default", _ALIAS, _is_text),
    "DISPATCHER": Setting(
        None,
        "'celery', 'rq', 'tasks', 'inline', or a callable that returns a Dispatcher, or its path",
        _is_hook,
    ),
    "CELERY_APP": Setting(None, "the path of a Celery app: 'shop.celery.app'", _is_text),
    "RQ_QUEUE": Setting(
        "redis://localhost:6379/0",
        "the URL of a Redis, or a Queue or connection, or the path of one, or of a callable "
        "that returns one",
        lambda value: value is not None,
    ),
    "TASKS_BACKEND": Setting("default", "an alias of TASKS", _is_text),
    "ON_GAP": Setting(None, "a callable, or its path", _is_hook),
    "ON_ERROR": Setting(None, "a callable, or its path", _is_hook),
    "STANDBY": Setting(None, "a name", _is_text),
    "HEALTH_PORT": Setting(None, "a port", lambda value: _is_count(1)(value) and value < 65536),
    "HEALTH_HOST": Setting(None, "an address: '127.0.0.1', or '0.0.0.0' for all", _is_text),
    "HEARTBEAT": Setting(15.0, "a number of seconds", _is_seconds),
    "HEARTBEAT_TIMEOUT": Setting(5.0, "a number of seconds", _is_seconds),
    "BUFFER_SIZE": Setting(100_000, "an integer from 1 on", _is_count(1)),
    "BUFFER_BYTES": Setting(
        BUFFER_BYTES, f"an integer from {MAX_PAYLOAD_BYTES} on", _is_count(MAX_PAYLOAD_BYTES)
    ),
    "OVERFLOW": Setting(
        "block",
        "'block', 'drop_oldest' or 'drop_newest'",
        lambda value: value in ("block", "drop_oldest", "drop_newest"),
    ),
    "DRAIN_TIMEOUT": Setting(DRAIN_TIMEOUT, "a number of seconds", _is_seconds),
}


def get(name: str) -> Any:
    """Return a setting's value, or its default."""
    given = getattr(django_settings, "PGNOTIFIER", {})
    value = given.get(name) if isinstance(given, Mapping) else None
    return SETTINGS[name].default if value is None else value


def get_imported(name: str) -> Any:
    """Return a setting's value, imported if it is a path.

    Raises:
        ImproperlyConfigured: There is nothing to import by it.
    """
    value = get(name)
    if not isinstance(value, str):
        return value
    if not _PATH.fullmatch(value):  # a URL, say, with a password
        raise ImproperlyConfigured(
            f"PGNOTIFIER[{name!r}] is no path of something in a module, as 'shop.queues.make' is"
        )
    try:
        return import_string(value.replace(":", "."))
    except Exception as exc:  # noqa: BLE001 - whatever the module raises
        # What looks like a path may be a server with a password.
        reason = "there is no such thing" if name == "RQ_QUEUE" else redact(exc)
        raise ImproperlyConfigured(f"PGNOTIFIER[{name!r}]: {reason}") from (
            exc if reason == str(exc) else None
        )


def _show(name: str, value: Any) -> str:
    # A URL or a connection may have a password in it.
    return type(value).__name__ if name == "RQ_QUEUE" else show(value)


def runs_checks() -> bool:
    """Return whether this process is a command of Django's, whose checks say what is wrong."""
    program = Path(sys.argv[0] if sys.argv else "")
    names = ("manage.py", "django-admin")
    return program.name in names or program.parts[-2:] == ("django", "__main__.py")


def check_settings() -> list[tuple[str, Problem]]:
    """Return what is wrong with the settings' names and values, each with an id."""
    given = getattr(django_settings, "PGNOTIFIER", {})
    if not isinstance(given, Mapping):
        return [("E001", Problem("PGNOTIFIER must be a dict.", f"It is {type(given).__name__}."))]
    found = []
    for name, value in given.items():
        setting = SETTINGS.get(name)
        if setting is None:
            near = difflib.get_close_matches(str(name).upper(), SETTINGS, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(SETTINGS)}."
            found.append(("E002", Problem(f"PGNOTIFIER has no setting {name!r}.", hint)))
        elif value is not None and not setting.accepts(value):
            problem = Problem(
                f"PGNOTIFIER[{name!r}] can't be {_show(name, value)}.", f"It is {setting.expected}."
            )
            found.append(("E003", problem))
    return found
