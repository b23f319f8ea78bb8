"""Make the name of a task from a subscription id, the same in every process."""

import re
from collections.abc import Hashable

from pgnotifier._runtime.names import spell
from pgnotifier.errors import TaskNameError

# These differ between processes: addresses, and the order of a set's members, which depends on
# PYTHONHASHSEED.
_UNSTABLE = re.compile(r"\bat 0x[0-9a-fA-F]+|\bset\(|\bfrozenset\(\{")


def task_name(prefix: str, id: Hashable) -> str:
    """Return the name of the task for a subscription id.

    A str is used as it is. The parts of a tuple are joined with dots; those of a frozenset are
    sorted and put in braces. A member of an enum becomes `Class.MEMBER`, and anything else is
    written as its repr.

    Raises:
        TaskNameError: A worker would make another name, because the repr contains an address or
            the members of a set; or the name can't be encoded.
    """
    name = f"{prefix}{spell(id, _show)}"
    try:
        name.encode()
    except UnicodeEncodeError:
        raise TaskNameError(
            f"id {id!a:.80} can't be a task name: it holds a lone surrogate; use another id"
        ) from None
    return name


def _show(id: Hashable) -> str:
    shown = repr(id)
    if _UNSTABLE.search(shown):
        raise TaskNameError(
            f"id {shown:.80} can't be a task name: its repr is not the same in every process, so "
            "a worker would use another name; use a str or a tuple as the id, or give "
            f"{type(id).__qualname__} a __repr__ that depends on its value alone"
        )
    return shown
