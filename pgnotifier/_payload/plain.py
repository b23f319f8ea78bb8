"""Rebuild a value from the builtin types that JSON and Python literals have.

What neither has a type for, such as dates, UUIDs and Enums, is substituted. Substitutes are written
as Django's `DjangoJSONEncoder` writes them, so that the same code can read both:
https://docs.djangoproject.com/en/stable/topics/serialization/.
"""

import dataclasses
import json
import reprlib
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import EllipsisType
from typing import Any
from uuid import UUID

from pgnotifier.errors import ArgumentTypeError, PayloadEncodingError

Substitute = Callable[[Any], Any]
Encoder = type[json.JSONEncoder] | Substitute
"""A class of JSON encoders, to call the method `default` of, or a function."""

INT_BOUND = 10**4300
"""Python refuses to print an int with more digits:
https://docs.python.org/3/library/stdtypes.html#integer-string-conversion-length-limitation."""

_KNOWN = (
    *(type(None), bool, EllipsisType, str, bytes, int, float, complex),
    *(tuple, list, set, dict),
)
_CHAIN = 10
"""How many times in a row a value may be substituted: the value of an Enum may be an Enum."""


def make_plain(value: Any, path: str, room: int, substitute: Substitute) -> Any:
    """Return a value rebuilt from builtin types.

    Args:
        value: The value. An instance of a subclass becomes an instance of the builtin type.
        path: Where the value is in the payload, for errors.
        room: How many levels of containers are still allowed.
        substitute: Returns the substitute for a value of another type; see `make_substitute`.

    Raises:
        PayloadEncodingError: The value can't be rebuilt.
    """
    if not isinstance(value, _KNOWN):
        value = _substituted(value, path, substitute)
    match value:
        case str():
            return str.__str__(value)  # str() of an Enum would be its name
        case None | bool() | EllipsisType():
            return value
        case bytes():
            return bytes.__bytes__(value)
        case int():
            if -INT_BOUND < value < INT_BOUND:
                return int.__int__(value)
            raise _refusal("an int with over 4,300 digits", path)
        case float() | complex():
            if value != value:
                raise _refusal("nan", path)
            return float.__float__(value) if isinstance(value, float) else complex(value)
    if not room:
        raise _refusal("a value that is nested too deep, or contains itself,", path)
    # No comprehensions: each level may use only one frame of the stack.
    plain: Any
    if isinstance(value, dict):
        plain = {}
        for key, item in value.items():
            plain_key = make_plain(key, f"a key of {path}", room - 1, substitute)
            _check_hashable(plain_key, f"a key of {path}")
            inner = f"{path}[{reprlib.repr(plain_key)}]"
            plain[plain_key] = make_plain(item, inner, room - 1, substitute)
    else:
        plain = []
        for place, item in enumerate(value):
            plain.append(make_plain(item, f"{path}[{place}]", room - 1, substitute))
            if isinstance(value, set):
                _check_hashable(plain[-1], path)
        plain = next(kind for kind in (tuple, list, set) if isinstance(value, kind))(plain)
    if len(plain) != len(value):
        raise _refusal("a container with items that become equal as builtin types", path)
    return plain


def _substituted(value: Any, path: str, substitute: Substitute) -> Any:
    what = f"a value of type {type(value).__qualname__}, which needs over {_CHAIN} substitutions,"
    for _ in range(_CHAIN):
        try:
            value = substitute(value)
        except TypeError as exc:
            raise _refusal(str(exc), path) from exc
        if isinstance(value, _KNOWN):
            return value
    raise _refusal(what, path)


def _check_hashable(plain: Any, path: str) -> None:
    try:
        hash(plain)
    except TypeError:
        raise _refusal("a dict key or set item that becomes a dict or a list", path) from None


def _refusal(what: str, path: str) -> PayloadEncodingError:
    where = path if len(path) <= 100 else f"{path[:100]}..."
    return PayloadEncodingError(
        f"{what} at {where} can't be sent as a payload: convert it to a str, or to values that "
        "JSON or a Python literal can contain, or give an encoder="
    )


def substitute(value: Any) -> Any:
    """Return what is sent in place of a value.

    Raises:
        TypeError: There is no substitute. The message describes the value, and fits as the subject
            of a sentence.
    """
    match value:
        case datetime():
            written = _cut_microseconds(value.isoformat(), value.microsecond)
            return f"{written[:-6]}Z" if written.endswith("+00:00") else written
        case date():
            return value.isoformat()
        case time() if value.utcoffset() is not None:
            raise TypeError("a time with an offset from UTC, but without a date,")
        case time():
            return _cut_microseconds(value.isoformat(), value.microsecond)
        case timedelta():
            return _write_duration(value)
        case Decimal() | UUID():
            return str(value)
        case Enum():
            return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return refuse(value)


def refuse(value: Any) -> Any:
    """Raise the error of `substitute` for an unknown type.

    Raises:
        TypeError: Always.
    """
    raise TypeError(f"a value of type {type(value).__qualname__}")


def make_substitute(encoder: Encoder | None) -> Substitute:
    """Return a function that calls an encoder first, and `substitute` if that raises TypeError.

    Raises:
        ArgumentTypeError: The encoder is neither a class of JSON encoders nor callable.
    """
    if encoder is None:
        return substitute
    if isinstance(encoder, type) and issubclass(encoder, json.JSONEncoder):
        own: Substitute = encoder().default
    elif callable(encoder):
        own = encoder
    else:
        raise ArgumentTypeError(
            "encoder must be a subclass of json.JSONEncoder, or a function that returns what to "
            f"send in place of a value, not {encoder!r:.80}"
        )

    def ask(value: Any) -> Any:
        try:
            return own(value)
        except TypeError:
            return substitute(value)

    return ask


def _cut_microseconds(written: str, microsecond: int) -> str:
    """Return an ISO 8601 time with milliseconds instead of microseconds, if it has any."""
    if not microsecond:
        return written
    end = written.index(".") + 4
    return written[:end] + written[end + 3 :]


def _write_duration(value: timedelta) -> str:
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06d}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{hours:02d}H{minutes:02d}M{seconds:02d}{fraction}S"
