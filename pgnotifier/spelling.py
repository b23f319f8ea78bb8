"""Spelling: channels whose names hold capitals, which SQL without quotes never reaches.

PostgreSQL folds an identifier without quotes to lower case: `NOTIFY Orders` goes to `orders`.
https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
"""

import logging
import re
from collections.abc import Container
from string import ascii_lowercase, ascii_uppercase

from pgnotifier.records import about

logger = logging.getLogger("pgnotifier.spelling")

_IDENTIFIER = re.compile(r"[^\W\d][\w$]*")
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)  # of other letters, PostgreSQL folds none


class Spelling:
    """Warns once of each channel whose name may be meant to be another one."""

    def __init__(self) -> None:
        self._known: dict[str, set[str]] = {}  # names with capitals, by what they are folded to
        self._warned: set[str] = set()  # names without, told of such a one

    def check(self, name: str, registered: Container[str]) -> None:
        """Warn of a new channel, if there is a reason.

        Args:
            name: The channel's.
            registered: Those that are registered.
        """
        folded = name.translate(_FOLD)
        if folded == name:
            self._check_plain(name, registered)
            return
        if not _IDENTIFIER.fullmatch(name):
            return
        alike = self._known.setdefault(folded, set())
        if name in alike:
            return
        others = [one for one in sorted({folded, *alike}) if one in registered]
        alike.add(name)
        self._warned.update({folded} & {*others})
        also = f"; {', '.join(map(repr, others))} differs by case alone" if others else ""
        logger.warning(
            'channel %r has capitals: NOTIFY %s without quotes goes to %r, NOTIFY "%s" to it%s',
            name,
            name,
            folded,
            name,
            also,
            extra=about("channel_case", channel=name, others=others or None),
        )

    def _check_plain(self, name: str, registered: Container[str]) -> None:
        """Warn of a name without capitals, if one with capitals was there before it."""
        others = [one for one in sorted(self._known.get(name, ())) if one in registered]
        if not others or name in self._warned:
            return
        self._warned.add(name)
        logger.warning(
            "channel %r differs by case alone from %s: NOTIFY without quotes goes to %r, "
            "however it is spelt",
            name,
            ", ".join(map(repr, others)),
            name,
            extra=about("channel_case", channel=name, others=others),
        )
