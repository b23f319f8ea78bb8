"""Find out why the messages of a subscription can't be stamped, so that Celery makes each one."""

import sys
from types import FunctionType
from typing import Any, NamedTuple

from celery import Celery, canvas, signals
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.app.task import Task
from celery.backends.base import Backend
from celery.backends.redis import RedisBackend
from celery.utils.functional import maybe_evaluate
from kombu import Producer

from pgnotifier.contrib.celery.targets import CeleryTarget, SignatureTarget
from pgnotifier.contrib.celery.tracing import Library
from pgnotifier.contrib.celery.tracing_opentelemetry import find_opentelemetry, is_known
from pgnotifier.contrib.celery.tracing_sentry import find_sentry, unwrap

_signals: Any = signals
_evaluate: Any = maybe_evaluate
# The Redis backend's method subscribes to the result, which nobody reads in the listener.
_HARMLESS: tuple[Any, ...] = (Backend.on_task_call, RedisBackend.on_task_call)


def find_obstacle(target: CeleryTarget) -> str | None:
    """Return why the messages of a target can't be stamped, as far as that is known beforehand.

    An obstacle is anything that could make each message different: the user's own code, or a patch
    of Celery, that is called for each message.
    """
    try:
        return _find_in_target(target)
    except Exception as exc:  # noqa: BLE001 - a setting may be invalid that Celery never reads
        return f"the app's configuration raises {type(exc).__name__}"


def _find_in_target(target: CeleryTarget) -> str | None:
    if isinstance(target, SignatureTarget):
        if target.is_canvas:
            return "it is a canvas"
        if not isinstance(target.fn, Task) and type(target.fn) is not canvas.Signature:
            return f"{type(target.fn).__qualname__} may publish in a way of its own"
    own = {**target.own_options, **target.options}.get("headers") or {}
    if any(library.names & own.keys() for library in find_hooks().libraries):
        return "its headers hold a trace of their own"
    found = find_obstacle_in_task(target.task, target.app) or _find_in_app(target.app)
    if found is None and not target.ignores_result:
        backend = type(target.app.backend)
        if backend.on_task_call not in _HARMLESS:
            return f"{backend.__qualname__} prepares for each result"
    return found


def find_obstacle_for(task: Any, app: Any) -> str | None:
    """Return why the messages of a task that is called directly can't be stamped.

    Args:
        task: The task; None for one of another program.
        app: The app that publishes it.
    """
    try:
        return find_obstacle_in_task(task, app) or _find_in_app(app)
    except Exception as exc:  # noqa: BLE001 - as in `find_obstacle`
        return f"the app's configuration raises {type(exc).__name__}"


def find_receivers() -> str | None:
    """Return which signal of publishing has receivers now, because they may change a message.

    The receivers of OpenTelemetry are known, and don't count.
    """
    for name in ("before_task_publish", "after_task_publish", "task_sent"):
        if not all(is_known(receiver) for _, receiver in getattr(_signals, name).receivers or ()):
            return f"the signal {name} has receivers"
    return None


class Hooks(NamedTuple):
    """What hooks into publishing now, for all tasks.

    Attributes:
        libraries: The tracing libraries.
        unexpected: Why one of them can't be supported, if so.
        functions: The functions that publish messages. They change when somebody patches them.
    """

    libraries: tuple[Library, ...]
    unexpected: str | None
    functions: tuple[Any, ...]


def find_hooks() -> Hooks:
    """Return what hooks into publishing now."""
    found = [one for one in (find_sentry(), find_opentelemetry()) if one is not None]
    libraries = tuple(one for one in found if isinstance(one, Library))
    unexpected = next((one for one in found if isinstance(one, str)), None)
    return Hooks(libraries, unexpected, (Task.apply_async, Celery.send_task, Producer.publish))


def find_obstacle_in_task(task: Any, app: Any) -> str | None:
    """Return why a task's `apply_async` may do more than Celery's own, if so.

    Args:
        task: The task; None for one of another program.
        app: The app that publishes it.
    """
    if task is None:  # a task of another program; only its name is known
        return None
    if task.app is not app:
        return "its task is another app's"
    kind = task.__class__  # not type(): it may be a proxy
    for name in ("apply_async", "shadow_name", "_get_exec_options"):
        if name in vars(task) or not _is_unpatched(kind, name, Task):
            return f"{kind.__qualname__}.{name} isn't Celery's own"
    if getattr(task, "_dump_pydantic_arguments", None) is not None:
        return "its arguments are pydantic models"
    return None


def _find_in_app(app: Any) -> str | None:
    conf = app.conf
    if conf.task_protocol != 2:
        return f"task_protocol is {conf.task_protocol}, not 2"
    if conf.task_send_sent_event:
        return "task_send_sent_event is on"
    for kind, base, name in (
        (type(app), Celery, "send_task"),
        (type(app.amqp), AMQP, "as_task_v2"),
        (app.amqp.Producer, Producer, "publish"),
    ):
        if not _is_unpatched(kind, name, base):
            return f"{kind.__qualname__}.{name} isn't {base.__module__.partition('.')[0]}'s own"
    if not all(isinstance(_evaluate(route), MapRoute) for route in app.amqp.router.routes):
        return "task_routes has a function, which may look at the arguments"
    return None


def _is_unpatched(kind: type, name: str, base: type) -> bool:
    """Return whether a class still has the method that its base was defined with.

    A wrapper can copy a function's name and module, but not its globals: they are those of the
    module that the function was compiled in. Unlike the name of the source file, they are the same
    for a `.pyc` elsewhere and in a frozen application. The qualified name in the code object was
    set by the compiler as well; it excludes another function of the same module. Sentry's wrapper
    is known, and doesn't count. A method that isn't a Python function counts as patched.
    """
    function = unwrap(getattr(kind, name))
    return (
        isinstance(function, FunctionType)
        and function.__globals__ is vars(sys.modules[base.__module__])
        and function.__code__.co_qualname == f"{base.__qualname__}.{name}"
    )
