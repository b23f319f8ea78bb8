"""Substitute values that neither JSON nor Python literals have a type for: dates, UUIDs, Enums.

They are written as Django's `DjangoJSONEncoder` writes them, so that the same code can read both:
https://docs.djangoproject.com/en/stable/topics/serialization/.
"""

import dataclasses
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pgnotifier.errors import ArgumentTypeError

Substitute = Callable[[Any], Any]
Encoder = type[json.JSONEncoder] | Substitute
"""A class of JSON encoders, to call the method `default` of, or a function."""


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
