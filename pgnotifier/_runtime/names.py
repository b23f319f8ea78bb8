"""Names of ids and callables, the same in every process."""

import functools
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any


def spell(id: Hashable, show: Callable[[Hashable], str] = repr) -> str:
    """Return the name of an id.

    A str stands for itself, a tuple joins its parts with dots, a frozenset its sorted parts
    in braces; an enum's member is `Class.MEMBER`.

    Args:
        id: A subscription's.
        show: Spells anything else.
    """
    match id:
        case Enum():
            return f"{type(id).__name__}.{id.name}"
        case str():
            return str.__str__(id)
        case tuple():
            return ".".join(spell(part, show) for part in id)
        case frozenset():
            return f"{{{','.join(sorted(spell(part, show) for part in id))}}}"
    return show(id)


def name_callable(fn: Any) -> str:
    """Return `module.qualname` of a function; of another callable, that of its type.

    Not its repr: a partial's shows its arguments, and a dataclass's its fields, which may be
    secret.
    """
    if isinstance(fn, functools.partial):
        return f"partial of {name_callable(fn.func)}"
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{named.__module__}.{named.__qualname__}"


def name_function(fn: Any) -> str:
    """Return `module.qualname` of what has these names; of anything else, its repr."""
    return f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', repr(fn))}"
