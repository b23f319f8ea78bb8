"""Check the patterns of task and function names that may be enqueued from SQL."""

from collections.abc import Iterable
from typing import Any

from pgnotifier.errors import ArgumentTypeError


def check_patterns(allow: Any, example: str = "shop.tasks.*") -> tuple[str, ...] | None:
    """Return patterns of names as a tuple; None if there are none.

    Raises:
        ArgumentTypeError: They aren't an iterable of str.
    """
    if allow is None:
        return None
    if isinstance(allow, str) or not isinstance(allow, Iterable):
        raise ArgumentTypeError(
            f"allow must be a list of names or patterns, such as [{example!r}], not {allow!r}"
        )
    patterns = tuple(allow)
    if not all(isinstance(one, str) for one in patterns):
        raise ArgumentTypeError(f"allow must hold names and patterns, not {patterns!r:.200}")
    return patterns
