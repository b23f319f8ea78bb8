"""Read and write Python literals, without warnings and crashes whatever the text is."""

import ast
import math
import re
from types import EllipsisType
from typing import Any

from pgnotifier._payload.nesting import LITERAL_DEPTH, nests_within

_TRIES = 100
"""How often to try: in Python 3.11, threads that parse at the same time may cause a SystemError
in each other, see https://github.com/python/cpython/issues/106905."""

# The compiler warns about invalid escapes and the like. Suppressing that would change the filters
# of the whole process (`catch_warnings` is not thread-safe), so only text made of tokens that
# cause no warning is passed to it. This also keeps plain words cheap. Every repetition uses
# atomic groups, `(?>...)`, so that a text that doesn't match fails in linear time.

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
# CPython limits only decimals to 4,300 digits. The counts here apply the same bound to the others.
_NUMBER = rf"""(?>0[xX](?>_?[0-9a-fA-F]){{1,3571}}|0[oO](?>_?[0-7]){{1,4761}}
    |0[bB](?>_?[01]){{1,14284}}|(?!0+[1-9][0-9]*\b(?!\.)){_DECIMAL}[jJ]?)(?![\w.])"""
# A sign is allowed only where a value begins or an imaginary part follows, and no bracket right
# after a closing one. So dates don't match, and nothing recurses without nesting (`1+1+1...`).
# The one form that literal_eval accepts and this doesn't is an imaginary part in brackets:
# `1+(2j)`.
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


def read_literal(text: str) -> Any:
    """Return the value of a literal, as `ast.literal_eval` does, or the text if it isn't one."""
    if not _matches_literal(text):
        return text
    if text.count("(") + text.count("[") + text.count("{") > LITERAL_DEPTH and not nests_within(
        LITERAL_DEPTH, _drop_strings("", text).encode("utf-8", "surrogatepass")
    ):
        return text
    for _ in range(_TRIES):
        try:
            return ast.literal_eval(text)
        except SystemError:
            continue
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, BytesWarning):
            break
    return text


def write_literal(value: Any) -> str:
    """Return a literal for a value that `make_plain` made, without NUL or lone surrogates."""
    match value:
        case str():
            # Always in single quotes. In double quotes it could be read as JSON, where the escapes
            # of two adjacent surrogates mean one character.
            return "'" + repr('"' + value)[2:]
        case float():
            # No digit follows the point, so this isn't JSON, which would be read as a Decimal.
            return repr(value).replace("inf", "1.e999")
        case complex():
            sign = "-" if math.copysign(1, value.imag) < 0 else "+"
            return f"{write_literal(value.real)}{sign}{write_literal(abs(value.imag))}j"
        case tuple():
            return f"({','.join(map(write_literal, value))}{',' * (len(value) == 1)})"
        case list():
            return f"[{','.join(map(write_literal, value))}]"
        case set() if value:
            return f"{{{','.join(map(write_literal, value))}}}"
        case dict():
            pairs = (f"{write_literal(key)}:{write_literal(item)}" for key, item in value.items())
            return f"{{{','.join(pairs)}}}"
        case EllipsisType():
            return "..."
        case _:
            return repr(value)
