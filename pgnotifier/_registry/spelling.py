"""Warn about channel names with capitals, which NOTIFY without quotes never reaches.

PostgreSQL folds an identifier without quotes to lower case: `NOTIFY Orders` goes to `orders`.
https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
"""

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Container
from functools import partial
from string import ascii_lowercase, ascii_uppercase

from pgnotifier._runtime.log_records import about

logger = logging.getLogger("pgnotifier.spelling")

_IDENTIFIER = re.compile(r"[^\W\d][\w$]*")
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)  # PostgreSQL folds no other letters


REMEMBERED = 10_000
"""How many names are remembered. There is a limit, as channels may come and go without end."""
SPELLINGS = 10
"""How many spellings of a name are remembered."""

Warn = Callable[[], None]
"""Logs one warning."""


def fold(name: str) -> str:
    """Return what PostgreSQL makes of a name without quotes."""
    return name.translate(_FOLD)


def is_identifier(name: str) -> bool:
    """Return whether a name can be written without quotes."""
    return _IDENTIFIER.fullmatch(name) is not None


class Spelling:
    """Warns once about each channel name that may be spelt wrong.

    `check` is called with the notifier's lock held. Logging could deadlock there: a log handler
    may take a lock that another thread holds while it subscribes. So `check` only collects the
    warnings, and `warn`, which is called without the notifier's lock, logs them.
    """

    def __init__(self) -> None:
        # The spellings that a warning has named, by their folded form; the oldest first.
        self._named: dict[str, set[str]] = {}
        self._warnings: deque[Warn] = deque()

    def check(self, name: str, registered: Container[str]) -> None:
        """Check a new channel's name, and prepare a warning for `warn` if it needs one.

        Args:
            name: The channel's name.
            registered: The registered channels.
        """
        folded = fold(name)
        named = self._named.get(folded, set())
        others = sorted(one for one in {folded, *named} - {name} if one in registered)
        has_capitals = folded != name
        if name in named or not (is_identifier(name) if has_capitals else others):
            return
        new = {name, folded} if folded in others else {name}
        self._named[folded] = new if len(named) >= SPELLINGS else named | new
        if len(self._named) > REMEMBERED:
            del self._named[next(iter(self._named))]
        shown = ", ".join(map(repr, others))
        if has_capitals:
            also = f"; it differs only by case from {shown}" if others else ""
            message = (
                "channel %r has capital letters: NOTIFY %s without quotes goes to %r; use "
                'NOTIFY "%s" to reach it%s'
            )
            args: tuple[str, ...] = (name, name, folded, name, also)
        else:
            message = (
                "channel %r differs only by case from %s: NOTIFY without quotes always goes to %r"
            )
            args = (name, shown, name)
        extra = about("channel_case", channel=name, others=others or None)
        self._warnings.append(partial(logger.warning, message, *args, extra=extra))

    def warn(self) -> None:
        """Log the warnings that `check` has prepared."""
        while self._warnings:
            with contextlib.suppress(IndexError):  # another thread has taken it
                self._warnings.popleft()()
