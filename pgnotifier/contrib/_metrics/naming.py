"""The names of notifiers in the label `notifier`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from psycopg.conninfo import conninfo_to_dict

from pgnotifier.notifier import Notifier

DEFAULT = "default"
"""The name of a notifier if its database isn't known before it connects."""
Given: TypeAlias = "Notifier | Sequence[Notifier] | Mapping[str, Notifier]"
"""One notifier, several, or several by name."""


def name_notifiers(given: Given) -> dict[str, Notifier]:
    """Return notifiers by name: that which was given, or that of the database.

    Those of one database are numbered from the second on: `shop`, `shop-2`.
    """
    if isinstance(given, Mapping):
        return dict(given)
    named: dict[str, Notifier] = {}
    seen: Counter[str] = Counter()
    for one in (given,) if isinstance(given, Notifier) else given:
        name = _find_database(one)
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name}-{seen[name]}"] = one
    return named


def make_text(value: str) -> str:
    """Return a label's value that is UTF-8, whatever a channel is called."""
    return value.encode("utf-8", "backslashreplace").decode()


def _find_database(notifier: Notifier) -> str:
    found = conninfo_to_dict(getattr(notifier.parameters, "conninfo", "")).get("dbname")
    return str(found) if found else DEFAULT
