"""Notifiers: one for each database that has channels."""

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
"""What psycopg takes besides libpq's parameters."""

GAPS = 20
"""How many gaps are kept."""

latest_gaps: dict[str, deque[Gap]] = {}
"""The latest gaps, by the alias of their database."""

_lock = ForkSafeLock()
"""Guards both. Not held while something is imported: whoever imports that may be waiting for us."""
_notifiers: dict[str, Notifier] = {}
_dispatchers: dict[str, Dispatcher] = {}


def find_parameters(alias: str) -> Mapping[str, Any]:
    """Return the libpq parameters of a database, as Django has them now.

    Raises:
        ImproperlyConfigured: There is no such database, or it isn't PostgreSQL.
    """
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist:
        raise ImproperlyConfigured(f"DATABASES has no {alias!r}") from None
    if connection.vendor != "postgresql":
        raise ImproperlyConfigured(
            f"database {alias!r} is {connection.display_name}, which has no NOTIFY"
        )
    parameters = connection.get_connection_params()
    return {name: value for name, value in parameters.items() if name not in PSYCOPG}


def _supply(alias: str) -> Mapping[str, Any]:
    try:
        return find_parameters(alias)
    except ImproperlyConfigured as exc:  # no later try would find another
        raise ConfigurationError(str(exc)) from exc


def get_notifier(alias: str) -> Notifier:
    """Return the notifier of a database; made when first asked for, and connected by nobody."""
    found = _notifiers.get(alias)
    if found is None:
        standby = conf.get("STANDBY")
        made = Notifier(
            lambda: _supply(alias),
            autorun=False,
            daemon=True,  # the command stays as long as it is to
            on_error=_report_error,
            on_gap=_GapHook(alias),
            heartbeat=conf.get("HEARTBEAT"),
            heartbeat_timeout=conf.get("HEARTBEAT_TIMEOUT"),
            buffer_size=conf.get("BUFFER_SIZE"),
            buffer_bytes=conf.get("BUFFER_BYTES"),
            overflow=conf.get("OVERFLOW"),
            standby=standby,
        )
        with _lock:
            found = _notifiers.setdefault(alias, made)
    return found


def all_notifiers() -> dict[str, Notifier]:
    """Return those that have channels, by the alias of their database."""
    with _lock:
        return {alias: one for alias, one in _notifiers.items() if one.get_channels()}


def _report_error(exc: BaseException, subscription: Any, notification: Any) -> None:
    """Tell `PGNOTIFIER["ON_ERROR"]`, which is imported when it is needed."""
    hook = conf.get_imported("ON_ERROR")
    if hook is not None:
        hook(exc, subscription, notification)


class _GapHook:
    """Keeps the latest gaps, and tells `PGNOTIFIER["ON_GAP"]`, which may need apps to be ready."""

    def __init__(self, alias: str) -> None:
        self._latest = latest_gaps.setdefault(alias, deque(maxlen=GAPS))

    def __call__(self, gap: Gap) -> None:
        self._latest.append(gap)
        hook = conf.get_imported("ON_GAP")
        if hook is not None:
            hook(gap)


# --- tasks ---


def task_dispatcher(alias: str) -> Dispatcher:
    """Return what the tasks of a database's channels go through.

    Raises:
        ImproperlyConfigured: None is configured, or it isn't installed.
    """
    found = _dispatchers.get(alias)
    if found is None:
        made = make_dispatcher(conf.get("DISPATCHER"))
        with _lock:
            found = _dispatchers.setdefault(alias, made)
    return found


def replace_dispatchers(kind: str) -> None:
    """Have what is subscribed from now on go through another dispatcher.

    Raises:
        ImproperlyConfigured: It isn't installed.
    """
    made = {alias: make_dispatcher(kind) for alias in tuple(_notifiers)}
    with _lock:
        _dispatchers.update(made)


def make_dispatcher(kind: Any) -> Dispatcher:
    """Return a dispatcher by its name, or by what makes one.

    Raises:
        ImproperlyConfigured: There is none, or it isn't installed, or can't be made.
        PgNotifierError: It refuses a setting.
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
            f"PGNOTIFIER['DISPATCHER'] is {show(kind)}, and {exc.name} isn't installed"
            + (f": pip install {INSTALLS[str(kind)]}" if maker is not None else "")
        ) from exc
    except Exception as exc:  # noqa: BLE001 - whatever it raises
        shown = redact(exc)
        raise ImproperlyConfigured(
            f"PGNOTIFIER['DISPATCHER'] is {show(kind)}, which fails with {show(exc, 200)}"
        ) from (exc if shown == str(exc) else None)
    if not isinstance(made, Dispatcher):
        raise ImproperlyConfigured(
            f"PGNOTIFIER['DISPATCHER'] makes {show(made)}, which is no pgnotifier.Dispatcher"
        )
    return made


def _make_given(kind: Any) -> Any:
    """Return what a path, or a callable, makes."""
    if isinstance(kind, str):
        if "." not in kind and ":" not in kind:
            raise ImproperlyConfigured(
                f"PGNOTIFIER['DISPATCHER'] is {show(kind)}, which is neither a name nor a path"
            )
        kind = conf.get_imported("DISPATCHER")
    return kind() if callable(kind) else kind


class NoDispatcherError(ImproperlyConfigured):
    """There are tasks, and no setting says what they go through."""


class NoCeleryAppError(ImproperlyConfigured):
    """Tasks are to go through Celery, and the project has made no app of Celery's."""


class HereDispatcher(InlineDispatcher):
    """Calls tasks in the process that listens: for development and tests. Ignores options."""

    starts_listener = False

    def bind(self, subscription: Subscription) -> Any:
        """Return the callback."""
        return subscription.fn


def _make_celery() -> Dispatcher:
    from pgnotifier.contrib.celery import CeleryDispatcher

    app = conf.get_imported("CELERY_APP") or _find_celery_app()
    if app is None:
        raise NoCeleryAppError(
            "PGNOTIFIER['DISPATCHER'] is 'celery', and there is no Celery app: import it in the "
            "project's __init__.py, or name it in PGNOTIFIER['CELERY_APP']"
        )
    return CeleryDispatcher(app)


def _find_celery_app() -> Any:
    """Return Celery's current app; None if there is none but the one that Celery makes up.

    `celery.current_app` makes one that nobody has configured, and leaves it the default of all
    threads: https://docs.celeryq.dev/en/stable/userguide/application.html#breaking-the-chain.
    """
    from celery import _state

    state: Any = _state
    current = state._tls.current_app or state.default_app
    if current is not None and (current.main != "default" or current.set_as_current):
        return current
    made = [app for app in state._get_active_apps() if app is not current]
    if len(made) == 1:  # by another thread, whose current app is its own
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
