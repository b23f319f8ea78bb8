"""What a message shows of its arguments: what Celery would, but sooner where they are simple."""

from typing import Any

from celery.utils.saferepr import saferepr

_SCALARS = frozenset({str, int, float, bool, type(None)})


def show_arguments(arguments: list[Any] | tuple[Any, ...], size: int, levels: int) -> str:
    """Return what `celery.utils.saferepr.saferepr` does.

    Args:
        arguments: The positional arguments of a task.
        size: The most characters to show of them.
        levels: How many containers deep to show them.
    """
    if _is_plain(arguments, levels):
        shown = repr(arguments)
        # Where there is something to escape, or to cut, the two differ.
        if len(shown) < size and "\\" not in shown and '"' not in shown:
            return shown
    return saferepr(arguments, size, maxlevels=levels)


def _is_plain(container: Any, levels: int) -> bool:
    """Tell whether there are scalars, lists and dicts alone in it, and no more levels of them."""
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
            (kind is dict or kind is list) and _is_plain(item, levels - 1)
        ):
            return False
    return True
