"""Payloads: what a notification's text means, and the text that carries a value."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

from pgnotifier._payload.literal import read_literal, write_literal
from pgnotifier._payload.nesting import JSON_DEPTH, LITERAL_DEPTH, is_shallow_json
from pgnotifier._payload.numbers import TooManyDigitsError, read_json, read_number, survives
from pgnotifier._payload.plain import INT_BOUND, make_plain
from pgnotifier._payload.substitutes import Encoder, Substitute, make_substitute, refuse


def decode(text: str) -> Any:
    r"""Return the value that a notification's text looks like; never raise or warn.

    JSON first, then a Python literal as `ast.literal_eval` takes it, then the text itself,
    untouched. Where that may surprise:

    - A JSON number with a fraction or an exponent is a float if that has the same digits, else
      a `decimal.Decimal`: 0.1 and 1.10 are floats, 12345678901234567.89 and 1e999 are not. In
      a literal, it is a float, as in Python.
    - `42 # retry` is the int 42 and `1_000` is 1000, as in Python; so is `2024_01_15` an int.
      Send text that must stay text JSON-quoted; `encode` does so where it is needed.
    - `NaN` and `inf` are text.
    - What CPython would warn of is text: an invalid escape (`'\d'`, `'\400'`), `1if 2else 3`.
    - So is an int of over 4,300 digits (Python can't print it), JSON with an exponent that
      stands for over 8,000 digits, JSON nested over 200 levels deep, and a literal nested
      over 50.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")  # which is no UTF-8 to the parser
    try:
        if len(data) <= JSON_DEPTH or is_shallow_json(data):
            return read_json(data)
    except _UNREAD as exc:
        return _decode_unread(text, exc)
    return read_literal(text)


def decode_bytes(data: bytes) -> Any:
    """Return what `decode` makes of the text that these bytes are; never raise or warn.

    JSON is read without making that text, in which bytes that aren't UTF-8 stand as lone
    surrogates, as in `Notification.raw`.
    """
    try:
        if len(data) <= JSON_DEPTH or is_shallow_json(data):
            return read_json(data)
    except _UNREAD as exc:
        return _decode_unread(data.decode("utf-8", "surrogateescape"), exc)
    return read_literal(data.decode("utf-8", "surrogateescape"))


def encode(value: Any, encoder: Encoder | None = None) -> str:
    """Return the text that carries a value: one that `decode` turns into it where it can.

    A str goes as it is if it decodes to itself. What JSON carries goes as JSON, so that
    other programs can read it; tuples, sets, bytes, complex numbers, `...`, infinities and
    dict keys other than str go as a Python literal. These decode to the same values, of the
    same types. An instance of a subclass (an IntEnum, an OrderedDict, a named tuple) goes as
    the builtin type that it extends. Of a complex number, the sign of a zero may be lost.

    Of other types, `decode` gives back what was sent in their place: date, datetime, time,
    timedelta, Decimal and UUID go as a str, written as Django's JSON encoder does; an Enum as
    its value, a dataclass as a dict. So they do as dict keys and within a tuple or a set.

    Args:
        value: The value.
        encoder: Returns what is to be sent in place of a value that neither JSON nor a literal
            has a type for; or a subclass of `json.JSONEncoder`, whose `default` does. Where it
            raises TypeError, the value is sent as without it.

    Raises:
        PayloadEncodingError: Nothing carries it: nan, a frozenset, an aware time, any other
            object, an int of over 4,300 digits, a value within itself, or one nested over
            200 levels deep (over 50 if not of JSON's types alone).
        ArgumentTypeError: The encoder is neither.
    """
    return _encode(value, make_substitute(encoder), exact_json, _write_json)


def encode_exactly(value: Any) -> str:
    """Return the text that `decode` turns into `value`, of the same types all the way down.

    It is that of `encode`, but that no other value is sent in place of one. A Decimal goes if
    `decode` makes it of its digits.

    Raises:
        PayloadEncodingError: There is none.
    """
    return _encode(value, refuse, _is_json_with_decimals, _write_json_with_decimals)


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
    # `decode` hands the very same object back when it finds nothing else in it.
    if type(value) is str and "\0" not in value and decode(value) is value:
        return value
    return write_json(value).decode()


_write_json = msgspec.json.Encoder().encode
_write_json_with_decimals = msgspec.json.Encoder(decimal_format="number").encode


def exact_json(value: Any) -> bool:
    """Tell whether any JSON encoder and decoder hand back `value`, of the same types.

    True for None, bool, int, finite float, Unicode text, and lists and str-keyed dicts of
    them; not for their subclasses, lone surrogates, or what `decode` refuses for its size.
    """
    return _is_json(value, JSON_DEPTH, decimals=False)


def _is_json_with_decimals(value: Any) -> bool:
    return _is_json(value, JSON_DEPTH, decimals=True)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_UNREAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_read_odd_json = json.JSONDecoder(parse_float=read_number, parse_constant=_refuse_constant).decode


def _decode_unread(text: str, exc: BaseException) -> Any:
    """Return the value of a text that msgspec refused.

    It refuses some JSON, too: lone surrogates (escaped, or bytes that aren't UTF-8), and an int
    of 4,300 digits with a sign.
    """
    if type(exc) is not msgspec.DecodeError or "\\u" in text:
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
    # In line, for the sake of speed. Not all(): a generator's frames would take C stack at
    # every level.
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
