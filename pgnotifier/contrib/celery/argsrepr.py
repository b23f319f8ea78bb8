"""Make the `argsrepr` header as Celery does, with a shortcut for simple arguments."""

from typing import Any

from celery.utils.saferepr import saferepr

_SCALARS = frozenset({str, int, float, bool, type(None)})


def show_arguments(arguments: list[Any] | tuple[Any, ...], size: int, levels: int) -> str:
    """Return the same as `celery.utils.saferepr.saferepr`.

    Args:
        arguments: The positional arguments of a task.
        size: The maximum length in characters.
        levels: How many levels of nested containers to show.
    """
    if is_plain(arguments, levels):
        return show_plain(arguments, size, levels)
    return saferepr(arguments, size, maxlevels=levels)


def show_plain(arguments: Any, size: int, levels: int) -> str:
    """Return the same as `show_arguments`, given what `is_plain`."""
    shown = repr(arguments)
    # repr() and saferepr() differ only where something is escaped or cut off.
    if len(shown) < size and "\\" not in shown and '"' not in shown:
        return shown
    return saferepr(arguments, size, maxlevels=levels)


def is_plain(container: Any, levels: int) -> bool:
    """Return whether a container holds only scalars, lists and dicts, within a number of levels."""
    if not levels:
        return False
    if type(container) is dict:
        for key in container:
            if type(key) not in _SCALARS:
                return False
        container = container.values()
    for item in container:
        kind = type(item)
        if kind not in _SCALARS and not (
            (kind is dict or kind is list) and is_plain(item, levels - 1)
        ):
            return False
    return True
