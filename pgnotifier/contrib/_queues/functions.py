"""Check that a worker can import a function by its name."""

import inspect
import sys
from collections.abc import Hashable
from typing import Any

from pgnotifier.dispatchers.in_process import runs_when_called
from pgnotifier.errors import DispatcherMismatchError


def find_path(id: Hashable, fn: Any) -> str:
    """Return `module.qualname` of a function, by which a worker imports it.

    Args:
        id: The subscription's id, for error messages.
        fn: A function, or a class or static method.

    Raises:
        DispatcherMismatchError: A worker couldn't import the function, or couldn't call it.
    """
    what = f"subscription {id!r:.80}: {fn!r:.80}"
    if not runs_when_called(fn):
        raise DispatcherMismatchError(
            f"{what} is a coroutine or generator function, which no worker awaits or iterates "
            "over; subscribe a plain function that does so, with asyncio.run() for example"
        )
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise DispatcherMismatchError(
            f"{what} has no name that a worker could import; subscribe a function of a module"
        )
    if "<lambda>" in name or "<locals>" in name:
        raise DispatcherMismatchError(
            f"{what} is defined inside another function or an expression, where no worker can "
            "import it; define it with `def` at the top level of a module"
        )
    if module == "__main__":
        raise DispatcherMismatchError(
            f"{what} is defined in the main program, which workers can't import; move it to a "
            "module"
        )
    if not _is_being_imported(module):
        check_found(id, fn)
    return f"{module}.{name}"


def check_found(id: Hashable, fn: Any) -> None:
    """Check that importing a function's name returns that function.

    This is only known once the module is imported: a decorator runs before the name is bound.

    Raises:
        DispatcherMismatchError: The name is bound to something else.
    """
    found: Any = sys.modules.get(fn.__module__)
    for part in fn.__qualname__.split("."):
        found = getattr(found, part, None)
    # A bound method is a new object each time, so compare by value. Further decorators may wrap it.
    if found != fn and (not callable(found) or inspect.unwrap(found) is not fn):
        raise DispatcherMismatchError(
            f"subscription {id!r:.80}: a worker that imports {fn.__module__}.{fn.__qualname__} "
            f"gets something else than {fn!r:.80}; subscribe a function under the name by which "
            "it was defined"
        )


def _is_being_imported(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))  # importlib sets it during the import
