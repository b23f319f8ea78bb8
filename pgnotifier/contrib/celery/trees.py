"""Write Python values as JSON trees: a type that JSON doesn't have becomes a list with a tag.

    {1: (2, b"x")}  ->  ["dict", [[1, ["tuple", [2, ["bytes", "x"]]]]]]

A tree never contains a JSON object, because kombu might take it for one of its own envelopes.
"""

from decimal import Decimal
from types import EllipsisType
from typing import Any

from pgnotifier.payload import exact_json


def pack(value: Any) -> Any:
    """Return the tree of a value.

    An instance of a subclass is written as the builtin type that it extends, as in JSON. Other
    types are left to kombu's encoders, which write dates and UUIDs.
    """
    match value:
        case str() if exact_json(str.__str__(value)):
            return value
        case str():
            # JSON would join two lone surrogates into one character.
            return ["str", value.encode("utf-8", "surrogatepass").decode("latin-1")]
        case None | bool() | int():
            return value
        case float():
            return value if exact_json(float(value)) else ["float", float.__repr__(value)]
        case complex():
            return ["complex", [pack(value.real), pack(value.imag)]]
        case bytes():
            return ["bytes", value.decode("latin-1")]
        case Decimal() if type(value) is Decimal:
            return ["decimal", str(value)]
        case EllipsisType():
            return ["...", None]
        case dict():
            return ["dict", [[pack(key), pack(item)] for key, item in value.items()]]
        case list() | tuple() | set() | frozenset():
            kind = next(k for k in (list, tuple, set, frozenset) if isinstance(value, k))
            return [kind.__name__, [pack(item) for item in value]]
    return value


def unpack(tree: Any) -> Any:
    """Return the value of a tree."""
    if type(tree) is not list:
        return tree
    tag, content = tree
    return _UNPACK[tag](content)


_UNPACK: dict[str, Any] = {
    "str": lambda odd: odd.encode("latin-1").decode("utf-8", "surrogatepass"),
    "float": float,
    "complex": lambda parts: complex(*map(unpack, parts)),
    "bytes": lambda text: text.encode("latin-1"),
    "decimal": Decimal,
    "...": lambda _: ...,
    "dict": lambda pairs: {unpack(key): unpack(item) for key, item in pairs},
    "list": lambda items: list(map(unpack, items)),
    "tuple": lambda items: tuple(map(unpack, items)),
    "set": lambda items: set(map(unpack, items)),
    "frozenset": lambda items: frozenset(map(unpack, items)),
}
