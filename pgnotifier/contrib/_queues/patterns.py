"""Check the patterns of task and function names, and look for names in them."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from pgnotifier.errors import ArgumentTypeError


def check_patterns(
    given: Any, example: str = "shop.tasks.*", what: str = "allow"
) -> tuple[str, ...] | None:
    """Return patterns of names as a tuple; None if there are none.

    Args:
        given: The patterns.
        example: A pattern that an error shows.
        what: The argument that an error names.

    Raises:
        ArgumentTypeError: They aren't an iterable of str.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ArgumentTypeError(
            f"{what} must be a list of names or patterns, such as [{example!r}], not {given!r}"
        )
    patterns = tuple(given)
    if not all(isinstance(one, str) for one in patterns):
        raise ArgumentTypeError(f"{what} must hold names and patterns, not {patterns!r:.200}")
    return patterns


def is_among(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the patterns, in which `*` stands for anything."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
