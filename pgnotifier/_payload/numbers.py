"""Read a JSON number as a float if that keeps its digits, and as a decimal otherwise.

JSON has one kind of number, and PostgreSQL's `numeric` writes all of its digits. A float is sure
to keep only 15 of them, so large amounts of money would lose their cents.
"""

import re
from decimal import Decimal
from typing import Any

import msgspec

LONGEST = 8000
"""How many digits a number may have before or after its point when it is written out: as many as
fit into a payload. If a callback made an int of `1e999999999`, that would take half a gigabyte."""

_SHORT = 16
"""A number of at most this many characters, one of them the point, has at most 15 digits, and a
float keeps these: https://docs.python.org/3/library/sys.html#sys.float_info."""
_SHORTEST = 18
"""The most characters that the shortest digits of a float take, with a point among them."""


class TooManyDigitsError(ValueError):
    """A number is too large or too long to be read as a number."""


def read_number(text: str) -> float | Decimal:
    """Return the value of a JSON number that has a fraction or an exponent.

    It is a float if the float's `repr` has the same digits, apart from zeros at either end. A
    Decimal survives being written as JSON and read again.

    Raises:
        TooManyDigitsError: The number has over 8,000 digits when it is written out.
    """
    value = float(text)
    if len(text) <= _SHORT and "e" not in text and "E" not in text:
        return value
    mantissa, _, exponent = text.lower().partition("e")
    digits = mantissa.strip("-0.")
    if not digits:  # zero, whatever the exponent
        return value
    if len(exponent.lstrip("+-0")) > len(str(LONGEST)):  # Decimal refuses an exponent of 19 digits
        raise TooManyDigitsError
    exact = Decimal(text)
    if len(digits) <= _SHORTEST and exact == Decimal(repr(value)):
        return value
    if exact.adjusted() >= LONGEST or exact.adjusted() < -LONGEST:
        raise TooManyDigitsError
    # Without a point, the digits of the Decimal would be read as an int: those of `12e0`, written
    # into a task's message.
    return exact if exact.as_tuple().exponent else Decimal(f"{exact}.0")


def survives(number: Decimal) -> bool:
    """Return whether JSON with the digits of a Decimal is read as the same Decimal."""
    digits = str(number)
    if not number.is_finite() or digits.lstrip("-").isdigit():
        return False
    try:
        read = read_number(digits)
    except TooManyDigitsError:
        return False
    return type(read) is Decimal and read.as_tuple() == number.as_tuple()


_read_floats = msgspec.json.Decoder().decode
read_exact = msgspec.json.Decoder(float_hook=read_number).decode
"""What `read_json` is for short texts: those of at most 500 bytes."""


def read_json(data: bytes) -> Any:
    """Return the value of JSON. Check with `is_shallow_json` first that it doesn't nest too deep.

    Raises:
        msgspec.DecodeError: It isn't JSON, or msgspec doesn't read it; or a number has too many
            digits, and the cause is `TooManyDigitsError`.
        UnicodeDecodeError: It isn't UTF-8.
        RecursionError: It nests deeper than this thread's stack allows now.
    """
    # Calling `read_number` for each fraction costs little while there are few. In prose, a letter
    # precedes a point. (The first checks are in line because they decide for most texts.)
    if (
        len(data) > _SAMPLE
        and _ZERO <= data[data.find(_POINT) - 1] <= _NINE
        and _has_many_fractions(data)
    ):
        value = _read_floats(data)
        if not _may_exceed_floats(data) or _encodes_to(value, data):
            return value
    return read_exact(data)


_E, _POINT, _ZERO, _NINE = b"E.09"
_SAMPLE, _MANY = 500, 6
"""How many bytes at either end of a text to look at, and with how many points among them the text
is taken to have many fractions."""


def _has_many_fractions(data: bytes) -> bool:
    """Return whether a text seems to have many fractions, judged by its beginning and end."""
    return data.count(_POINT, 0, _SAMPLE) >= _MANY or data.count(_POINT, -_SAMPLE) >= _MANY


_find_exponent = re.compile(rb"e(?<=\de)").search
_find_capital = re.compile(rb"E(?<=\dE)").search
_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def _may_exceed_floats(data: bytes) -> bool:
    """Return whether a number may have an exponent, or over 14 digits with a point among them."""
    if _find_exponent(data) or (_E in data and _find_capital(data)):
        return True
    zeros = data.translate(_ALL_ZEROS)
    return zeros.find(b".00000000") >= 0 or zeros.find(b"00000000.") >= 0


def _encodes_to(value: Any, data: bytes) -> bool:
    """Return whether a value, written as JSON with the shortest digits, is this text.

    Blanks are ignored.
    """
    return msgspec.json.encode(value) == msgspec.json.format(data, indent=-1)
