"""Rebuild a value from the builtin types that JSON and Python literals have."""

import reprlib
from types import EllipsisType
from typing import Any

from pgnotifier._payload.substitutes import Substitute
from pgnotifier.errors import PayloadEncodingError

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
        substitute: Returns the substitute for a value of another type; see `substitutes`.

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
