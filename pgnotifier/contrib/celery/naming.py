"""Task names: what an id is called, in every process alike."""

import re
from collections.abc import Hashable

from pgnotifier._runtime.names import spell
from pgnotifier.errors import TaskNameError

# What differs from process to process: addresses, and the order of a set's members, which
# hangs on PYTHONHASHSEED.
_UNSTABLE = re.compile(r"\bat 0x[0-9a-fA-F]+|\bset\(|\bfrozenset\(\{")


def task_name(prefix: str, id: Hashable) -> str:
    """Return the name of the task of a subscription id.

    A str stands for itself, a tuple joins its parts with dots, a frozenset its sorted parts
    in braces; an enum's member is `Class.MEMBER`, and anything else its repr.

    Raises:
        TaskNameError: No worker would find the same name for it: its repr holds an address,
            or it isn't Unicode.
    """
    name = f"{prefix}{spell(id, _show)}"
    try:
        name.encode()
    except UnicodeEncodeError:
        raise TaskNameError(
            f"id {id!a:.80} makes no task name: it holds a lone surrogate; use another id"
        ) from None
    return name


def _show(id: Hashable) -> str:
    shown = repr(id)
    if _UNSTABLE.search(shown):
        raise TaskNameError(
            f"id {shown:.80} makes no task name: its repr is not the same in every process, so "
            "a worker would look for another name; use a str or a tuple as the id, or give "
            f"{type(id).__qualname__} a __repr__ that tells its values"
        )
    return shown
