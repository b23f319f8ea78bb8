"""Payloads: what a notification's text means, and the text that carries a value."""

import ast
import json
import math
import re
import reprlib
from types import EllipsisType
from typing import Any, NoReturn

import msgspec

from pgnotifier.errors import PayloadEncodingError

# Parsers recurse in C, and a thread's stack may be small (512 KiB on macOS). In one of
# 256 KiB, msgspec crashes the process at 500 to 700 levels, CPython's own parser at 150.
_JSON_DEPTH = 200
_LITERAL_DEPTH = 50

_INT_BOUND = 10**4300
"""Python refuses to print a longer int:
https://docs.python.org/3/library/stdtypes.html#integer-string-conversion-length-limitation."""


def decode(text: str) -> Any:
    r"""Return the value that a notification's text looks like; never raise or warn.

    JSON first, then a Python literal as `ast.literal_eval` takes it, then the text itself,
    untouched. Where that may surprise:

    - `42 # retry` is the int 42 and `1_000` is 1000, as in Python; so is `2024_01_15` an int.
      Send text that must stay text JSON-quoted; `encode` does so where it is needed.
    - `NaN` and `inf` are text; `1e999` is infinity.
    - What CPython would warn of is text: an invalid escape (`'\d'`, `'\400'`), `1if 2else 3`.
    - So is an int of over 4,300 digits (Python can't print it), JSON nested over 200 levels
      deep, and a literal nested over 50.
    """
    # Only a text longer than the limit can nest deeper: most are not even counted.
    if (
        len(text) <= _JSON_DEPTH
        or text.count("[") + text.count("{") <= _JSON_DEPTH
        or _nests_within(_JSON_DEPTH, _json_brackets(text))
    ):
        try:
            return _from_json(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as exc:
            # msgspec refuses some JSON: `1e999`, lone surrogates (escaped, or bytes that
            # aren't UTF-8), and an int of 4,300 digits with a sign.
            if type(exc) is not msgspec.DecodeError or "\\u" in text:
                try:
                    return _from_odd_json(text)
                except (ValueError, RecursionError):
                    pass
    return _from_literal(text)


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
        value = _plain(value, "payload", _LITERAL_DEPTH)
        if not exact_json(value):
            return _literal(value)
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


_BRACKETS = b"([{)]}"
_NO_BRACKET = bytes(set(range(256)) - set(_BRACKETS))
_NO_MARK = bytes(set(_NO_BRACKET) - set(b'"'))
_ALIKE = bytes.maketrans(_BRACKETS, b"[[[]]]")


def _nests_within(depth: int, code: bytes) -> bool:
    """Tell whether the brackets in `code` pair up and nest no deeper than `depth`."""
    brackets = code.translate(_ALIKE, _NO_BRACKET)
    for _ in range(depth):
        before, brackets = len(brackets), brackets.replace(b"[]", b"")
        if len(brackets) == before:
            break
    return not brackets


# --- JSON -----------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_from_json = msgspec.json.Decoder().decode
_from_odd_json = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _json_brackets(text: str) -> bytes:
    """Return the brackets of a JSON text that stand outside its strings."""
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    marks = text.encode("utf-8", "surrogatepass").translate(None, _NO_MARK)
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
    if kind is str:
        return _is_unicode(value)
    if kind is int:
        return bool(-_INT_BOUND < value < _INT_BOUND)
    if kind is float:
        return math.isfinite(value)
    if kind is dict and room:
        for key, item in value.items():
            if type(key) is not str or not _is_unicode(key) or not _is_json(item, room - 1):
                return False
        return True
    if kind is list and room:
        # Not all(): a generator's frames would take C stack at every level.
        for item in value:  # noqa: SIM110
            if not _is_json(item, room - 1):
                return False
        return True
    return value is None or kind is bool


# --- Python literals ------------------------------------------------------------------------
# The compiler warns of invalid escapes and the like. Silencing it would change the filters of
# the whole process (`catch_warnings` is not thread-safe), so only text made of tokens that it
# has nothing to say about gets there. This also keeps plain words cheap. Every repetition is
# of atomic groups, `(?>...)`: a text that fails, fails in linear time.

_BLANK = r"(?>[ \t\f\r\n]|\\(?:\r?\n|\r)|\#[^\r\n]*)"
_BYTES_ESCAPE = r"""\r?\n|[\r\\'"abfnrtv]|[0-3][0-7]{0,2}|[4-7][0-7]?(?![0-7])|x[0-9a-fA-F]{2}"""
_STR_ESCAPE = _BYTES_ESCAPE + r"|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^{}'\"\\\r\n]+\}"
_RAW_ESCAPE = r"\r\n|[\s\S]"
_STRING = (
    "(?=[uUbBrR]{0,2}['\"])(?:"
    + "|".join(
        rf"{prefix}(?:{q}{q}{q}(?>[^{q}\\]+|\\(?:{escape})|{q}(?!{q}{q}))*{q}{q}{q}"
        rf"|{q}(?!{q}{q})(?>[^{q}\\\r\n]+|\\(?:{escape}))*{q})"
        for prefix, escape in (
            ("[uU]?", _STR_ESCAPE),
            ("[bB]", _BYTES_ESCAPE),
            ("(?:[rR][bB]?|[bB][rR])", _RAW_ESCAPE),
        )
        for q in "'\""
    )
    + ")"
)
_DIGITS = r"[0-9](?>_?[0-9])*"
_DECIMAL = rf"(?>(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?)"
# CPython checks the 4,300 digits of decimals alone; the counts here keep to the same bound.
_NUMBER = rf"""(?>0[xX](?>_?[0-9a-fA-F]){{1,3571}}|0[oO](?>_?[0-7]){{1,4761}}
    |0[bB](?>_?[01]){{1,14284}}|(?!0+[1-9][0-9]*\b(?!\.)){_DECIMAL}[jJ]?)(?![\w.])"""
# Signs only where a value begins or an imaginary part follows, and no bracket right after a
# closing one: dates are rejected here, and nothing recurses without nesting (`1+1+1...`).
# All that literal_eval takes and this doesn't is an imaginary part in brackets: `1+(2j)`.
_TOKEN = rf"""
    [(\[{{,:](?:{_BLANK}*[+-])?
    |[)\]}}](?!{_BLANK}*[(\[{{])
    |(?=[0-9.]){_NUMBER}
    |{_STRING}
    |[+-]{_BLANK}*{_DECIMAL}[jJ](?![\w.])(?!{_BLANK}*[+-])
    |(?:None|True|False)(?!\w)
    |set{_BLANK}*\({_BLANK}*\)(?!{_BLANK}*[(\[{{])
    |\.\.\."""
_matches_literal = re.compile(
    rf"(?>{_BLANK}*[+-])?(?>{_BLANK}*(?:{_TOKEN}))+{_BLANK}*", re.VERBOSE
).fullmatch
_drop_strings = re.compile(rf"{_STRING}|\#[^\r\n]*", re.VERBOSE).sub


def _from_literal(text: str) -> Any:
    if not _matches_literal(text):
        return text
    if text.count("(") + text.count("[") + text.count("{") > _LITERAL_DEPTH and not _nests_within(
        _LITERAL_DEPTH, _drop_strings("", text).encode("utf-8", "surrogatepass")
    ):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, BytesWarning):
        return text


def _literal(value: Any) -> str:
    match value:
        case str():
            # Always in single quotes: in double ones it might be JSON, where the escapes of
            # two adjacent surrogates mean one character.
            return "'" + repr('"' + value)[2:]
        case float():
            return repr(value).replace("inf", "1e999")
        case complex():
            sign = "-" if math.copysign(1, value.imag) < 0 else "+"
            return f"{_literal(value.real)}{sign}{_literal(abs(value.imag))}j"
        case tuple():
            return f"({','.join(map(_literal, value))}{',' * (len(value) == 1)})"
        case list():
            return f"[{','.join(map(_literal, value))}]"
        case set() if value:
            return f"{{{','.join(map(_literal, value))}}}"
        case dict():
            return f"{{{','.join(f'{_literal(k)}:{_literal(v)}' for k, v in value.items())}}}"
        case EllipsisType():
            return "..."
        case _:
            return repr(value)


def _plain(value: Any, path: str, room: int) -> Any:
    """Return `value` rebuilt of builtin types that a literal can hold, or raise."""
    match value:
        case None | bool() | EllipsisType():
            return value
        case str():
            return str.__str__(value)  # str() of an Enum would be its name
        case bytes():
            return bytes.__bytes__(value)
        case int():
            if -_INT_BOUND < value < _INT_BOUND:
                return int.__int__(value)
            raise _refusal("an int of over 4,300 digits", path)
        case float() | complex():
            if value != value:
                raise _refusal("nan", path)
            return float.__float__(value) if isinstance(value, float) else complex(value)
        case tuple() | list() | set() | dict():
            if not room:
                raise _refusal("a value nested too deep, or within itself,", path)
            return _plain_container(value, path, room - 1)
        case _:
            raise _refusal(f"a value of type {type(value).__qualname__}", path)


def _plain_container(value: Any, path: str, room: int) -> Any:
    plain: Any
    if isinstance(value, dict):
        plain = {}
        for key, item in value.items():
            plain_key = _plain(key, f"a key of {path}", room)
            plain[plain_key] = _plain(item, f"{path}[{reprlib.repr(plain_key)}]", room)
    else:
        items = [_plain(item, f"{path}[{place}]", room) for place, item in enumerate(value)]
        kind = next(kind for kind in (tuple, list, set) if isinstance(value, kind))
        plain = kind(items)
    if len(plain) != len(value):
        raise _refusal("a container of values that are equal as builtin types", path)
    return plain


def _refusal(what: str, path: str) -> PayloadEncodingError:
    where = path if len(path) <= 100 else f"{path[:100]}..."
    return PayloadEncodingError(
        f"{what} at {where} can't be sent as a payload: encode it yourself, as a str or in "
        "values that JSON or a Python literal can hold"
    )
