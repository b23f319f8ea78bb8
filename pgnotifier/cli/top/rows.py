"""The columns and rows of the tables of `pgnotifier top`, independent of widgets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgnotifier.cli.printable import printable


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        width: Its width, in characters; 0 for the one that gets what is left.
        right: Whether it is aligned to the right, as numbers are.
        falling: Whether the largest value comes first when the table is sorted by it.
    """

    title: str
    width: int
    right: bool = False
    falling: bool = False


def number(title: str, width: int) -> Column:
    """Return a column of numbers, which is sorted with the largest one first."""
    return Column(title, width, right=True, falling=True)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        key: Identifies it from one survey to the next.
        cells: What its columns show, without control characters.
        values: What its columns are sorted by.
        detail: The details that are shown below the table.
        tone: How it looks: `bad`, `quiet` or neither.
        channel: The channel that it is about.
        subscription: The subscription that it is about.
    """

    key: str
    cells: tuple[str, ...]
    values: tuple[Any, ...]
    detail: str = ""
    tone: str = ""
    channel: str | None = None
    subscription: str | None = None
    searched: str = field(default="", compare=False)

    def matches(self, words: str) -> bool:
        """Return whether a filter, in lower case, lets it through."""
        return words in self.searched


def make_row(
    key: Sequence[object],
    *pairs: tuple[str, Any] | str,
    detail: str = "",
    tone: str = "",
    channel: str | None = None,
    subscription: str | None = None,
) -> Row:
    """Return a row.

    Args:
        key: Identifies it.
        pairs: For each column: what it shows, and what it is sorted by if that isn't the same.
        detail: The details that are shown below the table.
        tone: How it looks.
        channel: The channel that it is about.
        subscription: The subscription that it is about.
    """
    cells = tuple(printable(one if isinstance(one, str) else one[0]) for one in pairs)
    values = tuple(one.lower() if isinstance(one, str) else one[1] for one in pairs)
    searched = "\n".join(map(printable, (*cells, detail))).lower()
    name = "\0".join(map(str, key))
    shown = printable(detail)
    return Row(name, cells, values, shown, tone, channel, subscription, searched)


def choose_rows(
    rows: Sequence[Row], words: str, column: int, *, falling: bool
) -> tuple[Sequence[Row], int]:
    """Return the rows that a filter lets through, sorted; and how many there are without it."""
    shown = [one for one in rows if one.matches(words.lower())] if words else [*rows]
    by: Callable[[Row], Any] = lambda one: one.values[column]  # noqa: E731
    shown.sort(key=lambda one: one.key)  # so that equal values have a lasting order
    shown.sort(key=by, reverse=falling)
    return shown, len(rows)
