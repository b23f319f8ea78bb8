"""Numbers in JSON: floats where a float says what the text says, else decimals.

JSON has one kind of number, and PostgreSQL's `numeric` writes all of its digits. A float keeps
15 of them for sure, so that large amounts of money would lose their cents.
"""

import re
from decimal import Decimal
from typing import Any

import msgspec

LONGEST = 8000
"""How many digits a number may have before its point, or after it, when it is written out: what
fits into a payload. An int of `1e999999999` would take a callback half a gigabyte."""

_SHORT = 16
"""A number of so many characters, one of them the point, has 15 digits, which a float keeps:
https://docs.python.org/3/library/sys.html#sys.float_info."""
_SHORTEST = 18
"""The most characters that a float's shortest digits and a point among them take."""


class TooManyDigitsError(ValueError):
    """A number can't be read as one."""


def read_number(text: str) -> float | Decimal:
    """Return the value of a JSON number that has a fraction or an exponent.

    It is a float if `repr` of that has the same digits, zeros at either end aside.

    Raises:
        TooManyDigitsError: It has over 8,000 when it is written out.
    """
    value = float(text)
    if len(text) <= _SHORT and "e" not in text and "E" not in text:
        return value
    mantissa, _, exponent = text.lower().partition("e")
    digits = mantissa.strip("-0.")
    if not digits:  # zero, whatever the exponent
        return value
    if len(exponent.lstrip("+-0")) > len(str(LONGEST)):  # Decimal itself refuses 19 digits
        raise TooManyDigitsError
    exact = Decimal(text)
    if len(digits) <= _SHORTEST and exact == Decimal(repr(value)):
        return value
    if exact.adjusted() >= LONGEST or exact.adjusted() < -LONGEST:
        raise TooManyDigitsError
    return exact


def survives(number: Decimal) -> bool:
    """Tell whether JSON that holds the digits of a Decimal is read as the same Decimal."""
    digits = str(number)
    if not number.is_finite() or digits.lstrip("-").isdigit():
        return False
    try:
        read = read_number(digits)
    except TooManyDigitsError:
        return False
    return type(read) is Decimal and read.as_tuple() == number.as_tuple()


_read_floats = msgspec.json.Decoder().decode
_read_exact = msgspec.json.Decoder(float_hook=read_number).decode


def read_json(data: bytes) -> Any:
    """Return the value of JSON, which mustn't nest deeper than the parser can bear.

    Raises:
        msgspec.DecodeError: It isn't JSON, or is JSON that msgspec doesn't read; or else
            `TooManyDigitsError` is its cause.
        UnicodeDecodeError: It isn't UTF-8.
        RecursionError: It nests deeper than this thread may go now.
    """
    # A call for each number costs nothing where there are none, and little where they are few.
    # In prose, a letter precedes a point. (That is asked in line, as most texts end up there.)
    if (
        len(data) > _SAMPLE
        and _ZERO <= data[data.find(_POINT) - 1] <= _NINE
        and _has_many_fractions(data)
    ):
        value = _read_floats(data)
        if not _may_exceed_floats(data) or _is_written_so(value, data):
            return value
    return _read_exact(data)


_E, _POINT, _ZERO, _NINE = b"E.09"
_SAMPLE, _MANY = 500, 6
"""Bytes at either end of a text, and how many points among them make it one of many fractions."""


def _has_many_fractions(data: bytes) -> bool:
    """Tell by both ends of a text whether it is worthwhile to look at all of it at once."""
    return data.count(_POINT, 0, _SAMPLE) >= _MANY or data.count(_POINT, -_SAMPLE) >= _MANY


_find_exponent = re.compile(rb"e(?<=\de)").search
_find_capital = re.compile(rb"E(?<=\dE)").search
_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")


def _may_exceed_floats(data: bytes) -> bool:
    """Tell whether a number may have an exponent, or over 14 digits with a point among them."""
    if _find_exponent(data) or (_E in data and _find_capital(data)):
        return True
    zeros = data.translate(_ALL_ZEROS)
    return zeros.find(b".00000000") >= 0 or zeros.find(b"00000000.") >= 0


def _is_written_so(value: Any, data: bytes) -> bool:
    """Tell whether a value is written as this JSON, of the shortest digits, blanks aside."""
    return msgspec.json.encode(value) == msgspec.json.format(data, indent=-1)
