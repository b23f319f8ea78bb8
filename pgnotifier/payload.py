"""Payloads: what a notification's text means, and the text that carries a value."""

import json
import math
from typing import Any, NoReturn

import msgspec

from pgnotifier.literal import (
    INT_BOUND,
    LITERAL_DEPTH,
    nests_within,
    read_literal,
    rebuild_plain,
    write_literal,
)
from pgnotifier.numerals import TooManyDigitsError, read_json, read_number

_JSON_DEPTH = 200
"""How deep JSON may nest: msgspec, too, recurses in C. See `LITERAL_DEPTH`."""


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
        if len(data) <= _JSON_DEPTH or _is_shallow(data):
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
        if len(data) <= _JSON_DEPTH or _is_shallow(data):
            return read_json(data)
    except _UNREAD as exc:
        return _decode_unread(data.decode("utf-8", "surrogateescape"), exc)
    return read_literal(data.decode("utf-8", "surrogateescape"))


def encode(value: Any) -> str:
    """Return the text that `decode` turns into `value`, of the same types all the way down.

    A str goes as it is if it decodes to itself. What JSON carries goes as JSON, so that
    other programs can read it; tuples, sets, bytes, complex numbers, `...`, infinities and
    dict keys other than str go as a Python literal. An instance of a subclass (an IntEnum,
    an OrderedDict, a named tuple) goes as the builtin type that it extends. Of a complex
    number, the sign of a zero may be lost.

    Raises:
        PayloadEncodingError: Neither carries it: nan, a frozenset, a date, any other object,
            an int of over 4,300 digits, a value within itself, or one nested over 200 levels
            deep (over 50 if not JSON's types alone).
    """
    if not exact_json(value):
        value = rebuild_plain(value, "payload", LITERAL_DEPTH)
        if not exact_json(value):
            return write_literal(value)
    # `decode` hands the very same object back when it finds nothing else in it.
    if type(value) is str and "\0" not in value and decode(value) is value:
        return value
    return msgspec.json.encode(value).decode()


def exact_json(value: Any) -> bool:
    """Tell whether any JSON encoder and decoder hand back `value`, of the same types.

    True for None, bool, int, finite float, Unicode text, and lists and str-keyed dicts of
    them; not for their subclasses, lone surrogates, or what `decode` refuses for its size.
    """
    return _is_json(value, _JSON_DEPTH)


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


_OPENING = b"[{"
_FEW = 4
_NO_OPENING = bytes(set(range(256)) - set(_OPENING))
_NO_MARK = bytes(set(range(256)) - set(b'([{)]}"'))


def _is_shallow(data: bytes) -> bool:
    """Tell whether JSON nests no deeper than the parser can bear."""
    return (
        _has_few_brackets(data)
        or len(data.translate(None, _NO_OPENING)) <= _JSON_DEPTH
        or nests_within(_JSON_DEPTH, _json_brackets(data))
    )


def _has_few_brackets(data: bytes) -> bool:
    # As in most large texts, where `find`, unlike `count`, looks at many bytes at a time.
    left = _FEW
    for bracket in _OPENING:
        at = data.find(bracket)
        while at >= 0:
            if not left:
                return False
            left -= 1
            at = data.find(bracket, at + 1)
    return True


def _json_brackets(data: bytes) -> bytes:
    """Return the brackets of JSON that stand outside its strings."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(None, _NO_MARK)
    # Two adjacent quotes cancel out, wherever they stand, which leaves few to split at.
    return b"".join(marks.replace(b'""', b"").split(b'"')[::2])


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(value: Any, room: int) -> bool:
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
            fits = room > 0 and _is_json(item, room - 1)
        elif kind is float:
            fits = math.isfinite(item)
        else:
            fits = item is None or kind is bool
        if not fits:
            return False
    return True
