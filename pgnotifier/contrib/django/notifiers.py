"""Make the notifiers, one per database, and the dispatchers of their tasks."""

import importlib.util
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from pgnotifier._runtime.redaction import redact, show
from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.contrib.django import conf
from pgnotifier.dispatch import Dispatcher, Subscription
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.errors import ConfigurationError, PgNotifierError
from pgnotifier.notification import Gap
from pgnotifier.notifier import Notifier

PSYCOPG = ("autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory")
"""The connection parameters that belong to psycopg, not to libpq."""

GAPS = 20
"""How many gaps to keep per database."""

latest_gaps: dict[str, deque[Gap]] = {}
"""The latest gaps, by the alias of their database."""

_lock = ForkSafeLock()
"""Guards the next two. It isn't held during an import, because another thread may hold the import
lock and wait for this one.
"""
_notifiers: dict[str, Notifier] = {}
_dispatchers: dict[str, Dispatcher] = {}


def find_parameters(alias: str) -> Mapping[str, Any]:
    """Return the libpq parameters of a database, as they are configured now.

    Raises:
        ImproperlyConfigured: DATABASES doesn't have the alias, or it isn't PostgreSQL.
    """
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist:
        raise ImproperlyConfigured(f"DATABASES has no alias {alias!r}") from None
    if connection.vendor != "postgresql":
        raise ImproperlyConfigured(
            f"database {alias!r} is {connection.display_name}, which doesn't have NOTIFY"
        )
    parameters = connection.get_connection_params()
    return {name: value for name, value in parameters.items() if name not in PSYCOPG}


def _supply(alias: str) -> Mapping[str, Any]:
    try:
        return find_parameters(alias)
    except ImproperlyConfigured as exc:  # retrying can't help
        raise ConfigurationError(str(exc)) from exc


def get_notifier(alias: str) -> Notifier:
    """Return the notifier of a database. The first call makes it; it isn't connected yet."""
    found = _notifiers.get(alias)
    if found is None:
        standby = conf.get("STANDBY")
        made = Notifier(
            lambda: _supply(alias),
            autorun=False,
            daemon=True,  # the command decides how long the process runs
            on_error=_report_error,
            on_gap=_GapHook(alias),
            heartbeat=conf.get("HEARTBEAT"),
            heartbeat_timeout=conf.get("HEARTBEAT_TIMEOUT"),
            buffer_size=conf.get("BUFFER_SIZE"),
            buffer_bytes=conf.get("BUFFER_BYTES"),
            overflow=conf.get("OVERFLOW"),
            standby=standby,
            answers=conf.get("ANSWERS"),
            remote_commands=conf.get("REMOTE_COMMANDS"),
        )
        with _lock:
            found = _notifiers.setdefault(alias, made)
    return found


def all_notifiers() -> dict[str, Notifier]:
    """Return the notifiers that have channels, by the alias of their database."""
    with _lock:
        return {alias: one for alias, one in _notifiers.items() if one.get_channels()}


def _report_error(exc: BaseException, subscription: Any, notification: Any) -> None:
    """Call `PGNOTIFIER["ON_ERROR"]`, which is imported when it is needed."""
    hook = conf.get_imported("ON_ERROR")
    if hook is not None:
        hook(exc, subscription, notification)


class _GapHook:
    """Keeps the latest gaps, and calls `PGNOTIFIER["ON_GAP"]`.

    The hook is imported when it is needed, because it may need the apps to be ready.
    """

    def __init__(self, alias: str) -> None:
        self._latest = latest_gaps.setdefault(alias, deque(maxlen=GAPS))

    def __call__(self, gap: Gap) -> None:
        self._latest.append(gap)
        hook = conf.get_imported("ON_GAP")
        if hook is not None:
            hook(gap)


# --- tasks ---


def task_dispatcher(alias: str) -> Dispatcher:
    """Return the dispatcher for the tasks of a database's channels.

    Raises:
        ImproperlyConfigured: No dispatcher is configured, or it can't be made.
    """
    found = _dispatchers.get(alias)
    if found is None:
        made = make_dispatcher(conf.get("DISPATCHER"))
        with _lock:
            found = _dispatchers.setdefault(alias, made)
    return found


def replace_dispatchers(kind: str) -> None:
    """Use another dispatcher for subscriptions that are made from now on.

    Raises:
        ImproperlyConfigured: The dispatcher isn't installed, or can't be made.
    """
    made = {alias: make_dispatcher(kind) for alias in tuple(_notifiers)}
    with _lock:
        _dispatchers.update(made)


def make_dispatcher(kind: Any) -> Dispatcher:
    """Return a dispatcher.

    Args:
        kind: The value of `PGNOTIFIER["DISPATCHER"]`: a name, a callable, or its path.

    Raises:
        ImproperlyConfigured: The dispatcher doesn't exist, isn't installed, or can't be made.
        PgNotifierError: The dispatcher refuses a setting.
    """
    if kind is None:
        raise NoDispatcherError(
            "tasks need PGNOTIFIER['DISPATCHER']: 'celery', 'rq', 'tasks' or 'inline'"
        )
    maker = MAKERS.get(kind) if isinstance(kind, str) else None
    try:
        made = maker() if maker is not None else _make_given(kind)
    except (ImproperlyConfigured, PgNotifierError):
        raise
    except ModuleNotFoundError as exc:
        raise ImproperlyConfigured(
            f"PGNOTIFIER['DISPATCHER'] is {show(kind)}, but {exc.name} isn't installed"
            + (f": pip install {INSTALLS[str(kind)]}" if maker is not None else "")
        ) from exc
    except Exception as exc:  # noqa: BLE001 - a user's callable may raise anything
        shown = redact(exc)
        raise ImproperlyConfigured(
            f"PGNOTIFIER['DISPATCHER'] is {show(kind)}, which raises {show(exc, 200)}"
        ) from (exc if shown == str(exc) else None)
    if not isinstance(made, Dispatcher):
        raise ImproperlyConfigured(
            f"PGNOTIFIER['DISPATCHER'] must make a pgnotifier.Dispatcher, not {show(made)}"
        )
    return made


def _make_given(kind: Any) -> Any:
    """Return what a callable, or the callable at a path, returns."""
    if isinstance(kind, str):
        if "." not in kind and ":" not in kind:
            raise ImproperlyConfigured(
                f"PGNOTIFIER['DISPATCHER'] must be a known name or a path, not {show(kind)}"
            )
        kind = conf.get_imported("DISPATCHER")
    return kind() if callable(kind) else kind


class NoDispatcherError(ImproperlyConfigured):
    """There are tasks, but no dispatcher is configured for them."""


class NoCeleryAppError(ImproperlyConfigured):
    """Celery is configured as the dispatcher, but the project has no Celery app."""


class HereDispatcher(InlineDispatcher):
    """Calls tasks in the process that listens, for development and tests. Ignores options."""

    starts_listener = False

    def bind(self, subscription: Subscription) -> Any:
        """Return the callback."""
        return subscription.fn


def _make_celery() -> Dispatcher:
    from pgnotifier.contrib.celery import CeleryDispatcher

    return CeleryDispatcher(find_celery_app("PGNOTIFIER['DISPATCHER'] is 'celery'"))


def find_celery_app(why: str) -> Any:
    """Return the project's Celery app.

    Args:
        why: Why there has to be one, for the error.

    Raises:
        NoCeleryAppError: There is none.
        ImproperlyConfigured: `PGNOTIFIER["CELERY_APP"]` can't be imported.
    """
    app = conf.get_imported("CELERY_APP") or _find_celery_app()
    if app is None:
        raise NoCeleryAppError(
            f"{why}, but there is no Celery app: import it in the project's __init__.py, or set "
            "PGNOTIFIER['CELERY_APP'] to its path"
        )
    return app


def _find_celery_app() -> Any:
    """Return Celery's current app; None if the project hasn't made one.

    This doesn't read `celery.current_app`, which would make an app without configuration and keep
    it as the default of all threads:
    https://docs.celeryq.dev/en/stable/userguide/application.html#breaking-the-chain.
    """
    from celery import _state

    state: Any = _state
    current = state._tls.current_app or state.default_app
    if current is not None and (current.main != "default" or current.set_as_current):
        return current
    made = [app for app in state._get_active_apps() if app is not current]
    if len(made) == 1:  # it was made in another thread, and is current only there
        return made[0]
    module = os.environ.get("CELERY_CONFIG_MODULE", "celeryconfig")
    if "CELERY_BROKER_URL" in os.environ or importlib.util.find_spec(module) is not None:
        return state.get_current_app()
    return None


def _make_rq() -> Dispatcher:
    from pgnotifier.contrib.rq import RQDispatcher

    given = conf.get("RQ_QUEUE")
    if isinstance(given, str) and "://" not in given:
        given = conf.get_imported("RQ_QUEUE")
    made: Any = given() if callable(given) and not hasattr(given, "enqueue") else given
    return RQDispatcher(made)


def _make_tasks() -> Dispatcher:
    from pgnotifier.contrib.django.task_dispatcher import TaskDispatcher, check_backend

    backend = conf.get("TASKS_BACKEND")
    check_backend(backend)
    return TaskDispatcher(backend)


MAKERS: Mapping[str, Callable[[], Dispatcher]] = {
    "celery": _make_celery,
    "rq": _make_rq,
    "tasks": _make_tasks,
    "inline": HereDispatcher,
}
INSTALLS = {
    "celery": "'pgnotifier[celery]'",
    "rq": "'pgnotifier[rq]'",
    "tasks": "django-tasks",
    "inline": "pgnotifier",
}
