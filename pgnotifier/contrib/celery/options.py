"""Check the publish options of a subscription when it is made."""

from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from typing import Any

from celery.canvas import Signature
from kombu import compression as kombu_compression
from kombu import serialization as kombu_serialization
from kombu.entity import Exchange, Queue

from pgnotifier._runtime.suggestions import suggest
from pgnotifier.errors import ArgumentTypeError, ConfigurationError, UnknownOptionError
from pgnotifier.settings import CENTURY, Setting, is_number, is_whole, seconds

_compression: Any = kombu_compression
_serialization: Any = kombu_serialization

_DELAYS = seconds(most=CENTURY, allows_zero=True)
_LIMITS = seconds(most=CENTURY)


class InvalidError(Exception):
    """A value is of the wrong type, or out of range. The message says what is expected."""

    def __init__(self, expected: str, *, is_type: bool = False) -> None:
        super().__init__(expected)
        self.is_type = is_type


def check_options(id: Hashable, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as Celery takes them, without those that are None.

    Raises:
        UnknownOptionError: Celery has no such option, or it can't be the same for all
            notifications of a subscription.
        ArgumentTypeError: A value is of the wrong type.
        ConfigurationError: A value is invalid, such as a serializer that isn't registered.
    """
    checked = {}
    for name, value in given.items():
        if name not in CHECKS:
            raise UnknownOptionError(f"subscription {id!r}: {_unknown(name)}")
        if value is None:
            continue
        try:
            CHECKS[name](value)
        except InvalidError as exc:
            error = ArgumentTypeError if exc.is_type else ConfigurationError
            raise error(f"subscription {id!r}: {name}={value!r:.80}: {exc}") from None
        checked[name] = value
    _check_together(id, checked)
    return checked


def _check_together(id: Hashable, options: Mapping[str, Any]) -> None:
    if "countdown" in options and "eta" in options:
        raise ConfigurationError(f"subscription {id!r}: give countdown or eta, not both")
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if soft is not None and hard is not None and soft > hard:
        raise ConfigurationError(
            f"subscription {id!r}: soft_time_limit={soft!r} is over time_limit={hard!r}, so it "
            "would have no effect; make it lower"
        )


def _unknown(name: str) -> str:
    if name in _REFUSED:
        return f"{name}= can't be an option: {_REFUSED[name]}"
    known = sorted((*CHECKS, "task"))
    hint = f"; {suggest(name, known)}"
    if name in _OF_TASKS:
        hint = f" but an option of tasks: give it as task={{{name!r}: …}}"
    return f"{name}= is not a publish option of Celery{hint}"


_OF_TASKS = frozenset(
    {
        *("acks_late", "autoretry_for", "base", "bind", "default_retry_delay"),
        *("dont_autoretry_for", "max_retries", "rate_limit", "reject_on_worker_lost"),
        *("retry_backoff", "retry_backoff_max", "retry_jitter", "retry_kwargs", "throws"),
        *("track_started",),
    }
)
_REFUSED = {
    "task_id": "each task needs a new id, which Celery makes",
    "args": "the arguments come from the notification; use a signature to add more",
    "kwargs": "the arguments come from the notification; use a signature to add more",
    "retry": "the listener retries by itself until the broker accepts the message",
    "retry_policy": "the listener retries by itself until the broker accepts the message",
    "producer": "the listener publishes on a connection of its own",
    "publisher": "the listener publishes on a connection of its own",
    "connection": "the listener publishes on a connection of its own",
    "router": "set task_routes in the app's configuration",
    "reply_to": "the listener doesn't wait for results",
    "add_to_parent": "the listener doesn't run tasks, so there is never a parent",
}


def _instance(kinds: type | tuple[type, ...], expected: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not isinstance(value, kinds):
            raise InvalidError(expected, is_type=True)
        if value == "":
            raise InvalidError("it must not be empty")

    return check


def check_seconds(value: Any) -> None:
    """Check a duration in seconds."""
    _check_range(_DELAYS, value)


def _check_time(value: Any) -> None:
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise InvalidError("it must be a date and time in ISO 8601") from None
    elif not isinstance(value, datetime):
        raise InvalidError("it must be a datetime, or a str in ISO 8601", is_type=True)


def _check_expires(value: Any) -> None:
    if isinstance(value, str | datetime):
        _check_time(value)
    else:
        check_seconds(value)


def check_limit(value: Any) -> None:
    """Check a duration in seconds that isn't zero."""
    _check_range(_LIMITS, value)


def _check_range(allowed: Setting, value: Any) -> None:
    if (expected := allowed.find_expected(value)) is not None:
        raise InvalidError(f"it must be {expected}", is_type=not is_number(value))


def _check_priority(value: Any) -> None:
    if not is_whole(value):
        raise InvalidError("it must be an int", is_type=True)
    if not 0 <= value <= 255:
        raise InvalidError("it must be from 0 to 9 (255 at most, for brokers that know more)")


def _check_serializer(value: Any) -> None:
    _check_str(value)
    try:
        *_, body = _serialization.dumps([[], {}, {}], value)
        assert isinstance(body, str | bytes), "the serializer `raw` returns its argument"
    except Exception:  # noqa: BLE001 - a serializer may raise anything
        raise InvalidError(
            "no serializer of that name can write a task; Celery knows json, pickle, yaml and "
            "msgpack (if they are installed), and those registered with kombu"
        ) from None


def _check_compression(value: Any) -> None:
    _check_str(value)
    try:
        _compression.get_encoder(value)
    except KeyError:
        raise InvalidError(f"there are {', '.join(sorted(_compression.encoders()))}") from None


def _check_delivery_mode(value: Any) -> None:
    if value not in (1, 2, "transient", "persistent"):
        raise InvalidError("it must be 'transient' (1) or 'persistent' (2)")


def _check_headers(value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidError("it must be a dict with keys of type str", is_type=True)


def _check_link(value: Any) -> None:
    signatures = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, Signature) for one in signatures):
        raise InvalidError(
            "it must be a signature, as task.s() is, or a list of them", is_type=True
        )


_check_str = _instance(str, "it must be a str")
check_bool = _instance(bool, "it must be True or False")

CHECKS: dict[str, Callable[[Any], None]] = {
    "compression": _check_compression,
    "countdown": check_seconds,
    "delivery_mode": _check_delivery_mode,
    "eta": _check_time,
    "exchange": _instance((str, Exchange), "it must be a str or a kombu.Exchange"),
    "expires": _check_expires,
    "headers": _check_headers,
    "ignore_result": check_bool,
    "link": _check_link,
    "link_error": _check_link,
    "priority": _check_priority,
    "queue": _instance((str, Queue), "it must be a str or a kombu.Queue"),
    "routing_key": _check_str,
    "serializer": _check_serializer,
    "shadow": _check_str,
    "soft_time_limit": check_limit,
    "time_limit": check_limit,
}
