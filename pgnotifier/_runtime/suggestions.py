"""Suggestions for misspelt names: "did you mean …?"."""

import difflib
from collections.abc import Collection


def find_nearest(name: object, known: Collection[str]) -> str | None:
    """Return the known name that is most like a misspelt one, if any is like it."""
    return next(iter(difflib.get_close_matches(str(name), known, 1)), None)


def suggest(name: object, known: Collection[str], *, prefix: str = "") -> str:
    """Return `did you mean 'x'?`, or `there are x, y` if no known name is like a misspelt one.

    Args:
        name: The misspelt name.
        known: Those that exist, in the order in which to show them.
        prefix: A prefix of each of them, which is shown, but isn't compared.
    """
    near = find_nearest(name, known)
    if near is not None:
        return f"did you mean {prefix + near!r}?"
    return f"there are {', '.join(prefix + one for one in known)}"
