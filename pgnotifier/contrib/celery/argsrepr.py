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
    if _is_flat(arguments) and levels > 1:
        shown = repr(arguments)
        # Where there is something to escape, or to cut, the two differ.
        if len(shown) < size and "\\" not in shown and '"' not in shown:
            return shown
    return saferepr(arguments, size, maxlevels=levels)


def _is_flat(arguments: list[Any] | tuple[Any, ...]) -> bool:
    """Tell whether there are no containers within the containers among the arguments."""
    for argument in arguments:
        kind = type(argument)
        if kind is dict:
            items = [*argument, *argument.values()]
        elif kind is list:
            items = argument
        else:
            items = [argument]
        for item in items:
            if type(item) not in _SCALARS:
                return False
    return True
