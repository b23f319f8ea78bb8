"""Decode the text of a notification into a Python value, and encode a value as text."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, NoReturn

import msgspec

from pgnotifier._payload.literal import read_literal, write_literal
from pgnotifier._payload.nesting import JSON_DEPTH, LITERAL_DEPTH, is_shallow_json
from pgnotifier._payload.numbers import (
    TooManyDigitsError,
    read_exact,
    read_json,
    read_number,
    survives,
)
from pgnotifier._payload.plain import (
    INT_BOUND,
    Encoder,
    Substitute,
    make_plain,
    make_substitute,
    refuse,
)

MAX_PAYLOAD_BYTES = 7999
"""The longest payload of NOTIFY: https://www.postgresql.org/docs/current/sql-notify.html."""


def decode(text: str) -> Any:
    r"""Return the value of a notification's text. Never raises or warns.

    The text is read as JSON, or else as a Python literal as by `ast.literal_eval`, or else it is
    returned unchanged. Cases that may surprise:

    - A JSON number with a fraction or an exponent is a float if the float has the same digits,
      and otherwise a `decimal.Decimal`: 0.1 and 1.10 are floats, 12345678901234567.89 and 1e999
      are decimals. In a literal, such a number is a float, as in Python.
    - `42 # retry` is the int 42 and `1_000` is 1000, as in Python. `2024_01_15` is an int as well.
      To keep text as text, send it as a JSON string; `encode` does so where it is needed.
    - `NaN` and `inf` stay text.
    - So does a literal that CPython would warn about: an invalid escape (`'\d'`, `'\400'`), or
      `1if 2else 3`.
    - So does an int with over 4,300 digits (Python can't print it), JSON with an exponent that
      stands for over 8,000 digits, JSON nested over 200 levels deep, and a literal nested over
      50 levels deep.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")  # the parser refuses this as UTF-8
    try:
        if len(data) <= JSON_DEPTH or is_shallow_json(data):
            return read_json(data)
    except _UNREAD as exc:
        return _decode_unread(text, exc)
    return read_literal(text)


def decode_bytes(data: bytes) -> Any:
    """Return what `decode` returns for the text of these bytes. Never raises or warns.

    For JSON, the text isn't made. In the text, bytes that aren't UTF-8 are lone surrogates, as in
    `Notification.raw`.
    """
    try:
        # The checks that decide for most texts are in line: a call costs as much as reading a short
        # text does.
        if len(data) <= JSON_DEPTH:
            return read_exact(data)
        if data.rfind(b"{") < JSON_DEPTH > data.rfind(b"[") or is_shallow_json(data):
            return read_json(data)
    except _UNREAD as exc:
        return _decode_unread(data.decode("utf-8", "surrogateescape"), exc)
    return read_literal(data.decode("utf-8", "surrogateescape"))


def encode(value: Any, encoder: Encoder | None = None) -> str:
    """Return a value as text. `decode` returns the same value for it, except as described here.

    A str is sent as it is if it decodes to itself. Values of JSON's types are sent as JSON, so
    that other programs can read them. Tuples, sets, bytes, complex numbers, `...`, infinities and
    dict keys other than str are sent as a Python literal. All of these decode to the same values,
    of the same types. An instance of a subclass (an IntEnum, an OrderedDict, a named tuple) is
    sent as the builtin type that it extends. A complex number may lose the sign of a zero.

    For other types, a substitute is sent, and `decode` returns that: date, datetime, time,
    timedelta, Decimal and UUID are sent as a str, written as Django's JSON encoder does; an Enum
    as its value, and a dataclass as a dict. The same applies to dict keys and to items of a tuple
    or a set.

    Args:
        value: The value.
        encoder: A function that returns what to send in place of a value that neither JSON nor a
            literal has a type for; or a subclass of `json.JSONEncoder`, to call the method
            `default` of. If it raises TypeError, the value is sent as without it.

    Raises:
        PayloadEncodingError: The value can't be sent: nan, a frozenset, an aware time, any other
            object, an int with over 4,300 digits, a value that contains itself, or one nested
            over 200 levels deep (over 50 if it has other types than JSON's).
        ArgumentTypeError: The encoder is neither of these.
    """
    return _encode(value, make_substitute(encoder), exact_json, _write_json)


def encode_exactly(value: Any) -> str:
    """Return a text for which `decode` returns an equal value, of the same types at every level.

    This is `encode` without substitutes. A Decimal is sent as a number if `decode` returns the
    same Decimal for its digits.

    Raises:
        PayloadEncodingError: There is no such text.
    """
    is_json = partial(_is_json, room=JSON_DEPTH, decimals=True)
    return _encode(value, refuse, is_json, _write_json_with_decimals)


def _encode(
    value: Any,
    substitute: Substitute,
    is_json: Callable[[Any], bool],
    write_json: Callable[[Any], bytes],
) -> str:
    if not is_json(value):
        value = make_plain(value, "payload", JSON_DEPTH, substitute)
        if not is_json(value):
            return write_literal(make_plain(value, "payload", LITERAL_DEPTH, refuse))
    # `decode` returns the same object if the text is neither JSON nor a literal.
    if type(value) is str and "\0" not in value and decode(value) is value:
        return value
    return write_json(value).decode()


_write_json = msgspec.json.Encoder().encode
_write_json_with_decimals = msgspec.json.Encoder(decimal_format="number").encode


def exact_json(value: Any) -> bool:
    """Return whether any JSON encoder and decoder keep `value` and its types.

    True for None, bool, int, finite float, Unicode text, and lists and str-keyed dicts of them.
    False for their subclasses, lone surrogates, and values that exceed the limits of `decode`.
    """
    return _is_json(value, JSON_DEPTH, decimals=False)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_UNREAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_read_odd_json = json.JSONDecoder(parse_float=read_number, parse_constant=_refuse_constant).decode


def _decode_unread(text: str, exc: BaseException) -> Any:
    """Return the value of a text that msgspec has refused.

    msgspec refuses some valid JSON as well: lone surrogates (escaped, or bytes that aren't UTF-8),
    and an int of 4,300 digits with a sign.
    """
    may_be_json = type(exc) is not msgspec.DecodeError or "\\u" in text or not _is_unicode(text)
    if may_be_json:
        if isinstance(exc.__cause__, TooManyDigitsError):
            return text
        try:
            return _read_odd_json(text)
        except TooManyDigitsError:
            return text
        except (ValueError, RecursionError):
            pass
    return read_literal(text)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(value: Any, room: int, *, decimals: bool) -> bool:
    kind = type(value)
    if kind is dict and room:
        for key in value:
            if type(key) is not str or not _is_unicode(key):
                return False
        items = value.values()
    else:
        items = value if kind is list and room else (value,)
    # In line for speed. Not all(): the frames of a generator would take C stack at every level.
    for item in items:
        kind = type(item)
        if kind is str:
            fits = item.isascii() or _is_unicode(item)
        elif kind is int:
            fits = -INT_BOUND < item < INT_BOUND
        elif kind is dict or kind is list:
            fits = room > 0 and _is_json(item, room - 1, decimals=decimals)
        elif kind is float:
            fits = math.isfinite(item)
        else:
            fits = item is None or kind is bool or (decimals and kind is Decimal and survives(item))
        if not fits:
            return False
    return True
