"""Functions: what a worker can find by its name."""

import inspect
import sys
from collections.abc import Hashable
from typing import Any

from pgnotifier.dispatchers.in_process import runs_when_called
from pgnotifier.errors import DispatcherMismatchError


def find_path(id: Hashable, fn: Any) -> str:
    """Return `module.qualname` of a function, by which a worker imports it.

    Args:
        id: The subscription's, for errors.
        fn: A function, or the method of a class that needs no instance.

    Raises:
        DispatcherMismatchError: No worker would find it, or could call it.
    """
    what = f"subscription {id!r:.80}: {fn!r:.80}"
    if not runs_when_called(fn):
        raise DispatcherMismatchError(
            f"{what} is a coroutine or generator function, which no worker awaits or iterates "
            "over; subscribe a function that does, with asyncio.run(), say"
        )
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise DispatcherMismatchError(
            f"{what} has no name that a worker could import; subscribe a function"
        )
    if "<lambda>" in name or "<locals>" in name:
        raise DispatcherMismatchError(
            f"{what} is made inside of another function or an expression, where no worker can "
            "import it; define it with `def` at the top of a module, and bind what it needs there"
        )
    if module == "__main__":
        raise DispatcherMismatchError(
            f"{what} is defined in the program that runs now, which workers can't import; move it "
            "to a module"
        )
    if not _is_being_imported(module):
        check_found(id, fn)
    return f"{module}.{name}"


def check_found(id: Hashable, fn: Any) -> None:
    """See to it that a function is what its name stands for, once its module is imported.

    A decorator is called before the name is there.

    Raises:
        DispatcherMismatchError: It isn't.
    """
    found: Any = sys.modules.get(fn.__module__)
    for part in fn.__qualname__.split("."):
        found = getattr(found, part, None)
    # The method of a class is another object each time; a decorator may have been put on top.
    if found != fn and (not callable(found) or inspect.unwrap(found) is not fn):
        raise DispatcherMismatchError(
            f"subscription {id!r:.80}: {fn!r:.80} isn't what {fn.__module__}.{fn.__qualname__} "
            "is, which is all that a worker can find; subscribe a function under the name that "
            "it was defined by"
        )


def _is_being_imported(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))  # importlib's own mark
