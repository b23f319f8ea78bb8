"""Warn about channel names with capitals, which NOTIFY without quotes never reaches.

PostgreSQL folds an identifier without quotes to lower case: `NOTIFY Orders` goes to `orders`.
https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
"""

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from string import ascii_lowercase, ascii_uppercase

from pgnotifier._runtime.log_records import about

logger = logging.getLogger("pgnotifier.spelling")

_IDENTIFIER = re.compile(r"[^\W\d][\w$]*")
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)  # PostgreSQL folds no other letters


REMEMBERED = 10_000
"""How many names are remembered. Channels may be added and removed without end."""

Warn = Callable[[], None]
"""Logs one warning."""


class Spelling:
    """Warns once about each channel name that may be spelt wrong.

    `check` is called with the notifier's lock held. Logging could deadlock there: a log handler
    may take a lock that another thread holds while it subscribes. So `check` only collects the
    warnings, and `warn`, which is called without the notifier's lock, logs them.
    """

    def __init__(self) -> None:
        self._known: dict[str, None] = {}  # names that were checked, the oldest first
        self._alike: dict[str, set[str]] = {}  # names with capitals, by their folded form
        self._warnings: deque[Warn] = deque()

    def check(self, name: str, registered: Container[str]) -> None:
        """Check a new channel's name, and prepare a warning for `warn` if it needs one.

        Args:
            name: The channel's name.
            registered: The registered channels.
        """
        folded = name.translate(_FOLD)
        if folded == name:
            self._check_plain(name, registered)
        elif name not in self._known and _IDENTIFIER.fullmatch(name):
            self._check_capitals(name, folded, registered)

    def warn(self) -> None:
        """Log the warnings that `check` has prepared."""
        while self._warnings:
            with contextlib.suppress(IndexError):  # another thread has taken it
                self._warnings.popleft()()

    def _check_capitals(self, name: str, folded: str, registered: Container[str]) -> None:
        """Prepare a warning about a name with capitals."""
        others = self._find({folded, *self._alike.get(folded, ())}, registered)
        self._alike.setdefault(folded, set()).add(name)
        self._remember(name)
        if folded in others:
            self._remember(folded)
        also = f"; it differs only by case from {', '.join(map(repr, others))}" if others else ""
        self._put(
            "channel %r has capital letters: NOTIFY %s without quotes goes to %r; use "
            'NOTIFY "%s" to reach it%s',
            *(name, name, folded, name, also),
            extra=about("channel_case", channel=name, others=others or None),
        )

    def _check_plain(self, name: str, registered: Container[str]) -> None:
        """Prepare a warning about a name without capitals, if one with capitals is registered."""
        others = self._find(self._alike.get(name, ()), registered)
        if not others or name in self._known:
            return
        self._remember(name)
        self._put(
            "channel %r differs only by case from %s: NOTIFY without quotes always goes to %r",
            *(name, ", ".join(map(repr, others)), name),
            extra=about("channel_case", channel=name, others=others),
        )

    def _find(self, names: Iterable[str], registered: Container[str]) -> list[str]:
        return sorted(one for one in names if one in registered)

    def _put(self, message: str, *args: object, extra: Mapping[str, object]) -> None:
        self._warnings.append(partial(logger.warning, message, *args, extra=extra))

    def _remember(self, name: str) -> None:
        self._known[name] = None
        if len(self._known) > REMEMBERED:
            oldest = next(iter(self._known))
            del self._known[oldest]
            folded = oldest.translate(_FOLD)
            alike = self._alike.get(folded, set())
            alike.discard(oldest)
            if not alike:
                self._alike.pop(folded, None)
