"""Check the options of tasks that are made from callbacks, when they are subscribed.

They are those of `app.task()`: https://docs.celeryq.dev/en/stable/userguide/tasks.html#list-of-options
"""

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any

from celery.app.task import Task
from celery.utils.time import rate

from pgnotifier._runtime.suggestions import suggest
from pgnotifier.contrib.celery.options import (
    CHECKS,
    InvalidError,
    check_bool,
    check_limit,
    check_seconds,
)
from pgnotifier.errors import ArgumentTypeError, ConfigurationError, UnknownOptionError

_rate: Callable[[Any], float] = rate


def check_task_options(app: Any, id: Hashable, given: Any) -> Mapping[str, Any]:
    """Return the options to make a task with.

    Args:
        app: The app.
        id: The subscription's id, for error messages.
        given: The argument of `subscribe(task=…)`.

    Raises:
        UnknownOptionError: Celery has no such option, or it can't be used here.
        ArgumentTypeError: The options aren't a dict, or a value is of the wrong type.
        ConfigurationError: A value is invalid.
    """
    if given is None:
        return MappingProxyType({})
    if not isinstance(given, Mapping):
        raise ArgumentTypeError(
            f"subscription {id!r}: task= must be a dict of options of app.task(), as in "
            f"task={{'max_retries': 5}}, not {given!r:.80}"
        )
    bases = [given.get("base"), getattr(app, "task_cls", None)]
    for name, value in given.items():
        shown = f"subscription {id!r}: task={{{name!r}: {value!r:.80}}}"
        if name in _CHECKS:
            _check(shown, _CHECKS[name], value)
        elif name in _REFUSED or not any(_has(base, name) for base in bases):
            raise UnknownOptionError(f"{shown}: {_unknown(name)}")
    return MappingProxyType(dict(given))


def _check(shown: str, check: Callable[[Any], None], value: Any) -> None:
    try:
        check(value)
    except InvalidError as exc:
        raise (ArgumentTypeError if exc.is_type else ConfigurationError)(
            f"{shown}: {exc}"
        ) from None


def _has(base: Any, name: Any) -> bool:
    """Return whether the user's own Task class has an attribute that Celery's doesn't have."""
    return (
        isinstance(base, type)
        and isinstance(name, str)
        and hasattr(base, name)
        and not hasattr(Task, name)
    )


def _unknown(name: Any) -> str:
    if name in _REFUSED:
        return _REFUSED[name]
    return f"Celery's tasks have no such option; {suggest(name, sorted(_CHECKS))}"


_REFUSED: Mapping[str, str] = {
    "app": "the task belongs to the dispatcher's app",
    "filter": "the task has to call the callback",
    "lazy": "the task is made when the app is finalized",
    "name": "the name is made from the id: subscribe with another id, or set task_prefix",
    "pydantic": "the arguments come from the notification",
    "run": "the task runs the callback",
    "shared": "the task belongs to the dispatcher's app",
    "typing": "the arguments come from the notification",
}


def _check_exceptions(value: Any) -> None:
    if not isinstance(value, tuple | list) or not all(
        isinstance(one, type) and issubclass(one, BaseException) for one in value
    ):
        raise InvalidError("it must be a tuple of exception classes", is_type=True)


def _check_count(value: Any) -> None:
    if value is None:  # no limit
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidError("it must be an int, or None for no limit", is_type=True)
    if value < 0:
        raise InvalidError("it must be at least 0")


def _check_backoff(value: Any) -> None:
    if not isinstance(value, bool):
        check_seconds(value)


def _check_rate(value: Any) -> None:
    if not isinstance(value, str | int | float | None) or isinstance(value, bool):
        raise InvalidError("it must be a number per second, or a str like '10/m'", is_type=True)
    try:
        _rate(value)
    except (ValueError, KeyError):
        raise InvalidError("it must be like '10/s', '10/m' or '10/h'") from None


def _check_retry_kwargs(value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidError("it must be a dict of arguments of Task.retry()", is_type=True)


def _check_base(value: Any) -> None:
    if not isinstance(value, type) or not issubclass(value, Task):
        raise InvalidError("it must be a subclass of celery.Task", is_type=True)


def _check_callable(value: Any) -> None:
    if not callable(value):
        raise InvalidError("it must be callable", is_type=True)


def _check_nothing(value: Any) -> None:
    """Accept any value, because only Celery can check it."""


_ALL: Mapping[str, Callable[[Any], None]] = {
    **dict.fromkeys(
        (
            *("acks_late", "acks_on_failure", "acks_on_failure_or_timeout", "acks_on_timeout"),
            *("bind", "ignore_result", "reject_on_worker_lost", "retry_jitter", "send_events"),
            *("retry_on_worker_lost", "store_errors_even_if_ignored", "track_started", "trail"),
        ),
        check_bool,
    ),
    **dict.fromkeys(("autoretry_for", "dont_autoretry_for", "throws"), _check_exceptions),
    **dict.fromkeys(
        ("after_return", "before_start", "on_failure", "on_retry", "on_success"), _check_callable
    ),
    **dict.fromkeys(("Request", "Strategy", "backend"), _check_nothing),
    **{
        name: CHECKS[name]
        for name in (
            *("compression", "delivery_mode", "exchange", "expires", "priority", "queue"),
            *("routing_key", "serializer"),
        )
    },
    "base": _check_base,
    "default_retry_delay": check_seconds,
    "max_retries": _check_count,
    "rate_limit": _check_rate,
    "retry_backoff": _check_backoff,
    "retry_backoff_max": check_seconds,
    "retry_kwargs": _check_retry_kwargs,
    "soft_time_limit": check_limit,
    "time_limit": check_limit,
}
_BESIDES_ATTRIBUTES = frozenset(
    {
        *("autoretry_for", "base", "bind", "compression", "delivery_mode", "dont_autoretry_for"),
        *("exchange", "queue", "retry_backoff", "retry_backoff_max", "retry_jitter"),
        *("retry_kwargs", "routing_key"),
    }
)
"""The options for which Celery's Task class has no attribute."""

_CHECKS = {
    name: check
    for name, check in _ALL.items()
    if name in _BESIDES_ATTRIBUTES or hasattr(Task, name)  # older versions have fewer
}
