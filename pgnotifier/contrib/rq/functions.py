"""Functions: what a worker can find by its name."""

import sys
from collections.abc import Hashable
from typing import Any

from pgnotifier.dispatch import runs_when_called
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
    if _look_up(module, name) != fn:  # the method of a class is another object each time
        raise DispatcherMismatchError(
            f"{what} isn't what {module}.{name} is, which is all that a worker can find; "
            "subscribe a function under the name that it was defined by"
        )
    return f"{module}.{name}"


def _look_up(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
