"""Spelling: channels whose names hold capitals, which SQL without quotes never reaches.

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
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)  # of other letters, PostgreSQL folds none


REMEMBERED = 10_000
"""How many names are: channels may come and go for as long as the process lives."""

Warn = Callable[[], None]
"""Logs one warning."""


class Spelling:
    """Warns once of each channel whose name may be meant to be another one.

    It is written under the notifier's lock. A handler of the log may take a lock whose holder
    subscribes, so the warnings wait for `warn`, which is called without the notifier's lock.
    """

    def __init__(self) -> None:
        self._known: dict[str, None] = {}  # names that were looked at, the oldest first
        self._alike: dict[str, set[str]] = {}  # those with capitals, by what they are folded to
        self._warnings: deque[Warn] = deque()

    def check(self, name: str, registered: Container[str]) -> None:
        """Note a new channel, and have `warn` warn of it, if there is a reason.

        Args:
            name: The channel's.
            registered: Those that are registered.
        """
        folded = name.translate(_FOLD)
        if folded == name:
            self._check_plain(name, registered)
        elif name not in self._known and _IDENTIFIER.fullmatch(name):
            self._check_capitals(name, folded, registered)

    def warn(self) -> None:
        """Log the warnings that wait."""
        while self._warnings:
            with contextlib.suppress(IndexError):  # another thread has just taken it
                self._warnings.popleft()()

    def _check_capitals(self, name: str, folded: str, registered: Container[str]) -> None:
        """Warn of a name with capitals."""
        others = self._find({folded, *self._alike.get(folded, ())}, registered)
        self._alike.setdefault(folded, set()).add(name)
        self._remember(name)
        if folded in others:
            self._remember(folded)
        differ = "differs" if len(others) == 1 else "differ"
        also = f"; {', '.join(map(repr, others))} {differ} by case alone" if others else ""
        self._put(
            'channel %r has capitals: NOTIFY %s without quotes goes to %r, NOTIFY "%s" to it%s',
            *(name, name, folded, name, also),
            extra=about("channel_case", channel=name, others=others or None),
        )

    def _check_plain(self, name: str, registered: Container[str]) -> None:
        """Warn of a name without capitals, if one with capitals was there before it."""
        others = self._find(self._alike.get(name, ()), registered)
        if not others or name in self._known:
            return
        self._remember(name)
        self._put(
            "channel %r differs by case alone from %s: NOTIFY without quotes goes to %r, "
            "however it is spelt",
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
