"""Autostart: each row of the truth table in its docstring."""

import contextlib
import itertools
from types import SimpleNamespace

import pytest

from pgnotifier._notifier.autostart import hold_starts, starts

VALUES = {
    "asked": ["no", "yes"],
    "awaited": ["no", "yes"],
    "held": ["no", "yes"],
    "autorun": ["None", "no", "yes"],
    "dispatchers": ["some", "all"],
}
CHOICES = {"None": None, "no": False, "yes": True}
TABLE = [
    [cell.strip() for cell in line.strip(" |").replace("||", "|").split("|")]
    for line in (starts.__doc__ or "").splitlines()
    if line.lstrip().startswith("|") and "---" not in line
]
HEAD, ROWS = TABLE[0], TABLE[1:]


def fits(row, case):
    """Return whether a row of the table applies to a case."""
    return all(cell in ("-", value) for cell, value in zip(row, case, strict=False))


CASES = list(itertools.product(*VALUES.values()))


def test_the_table_is_whole():
    """The table has a column for each input, and exactly one row applies to each case."""
    assert [*VALUES, "starts"] == HEAD
    assert [sum(fits(row, case) for row in ROWS) for case in CASES] == [1] * len(CASES)


@pytest.mark.parametrize(
    ("row", "case"),
    [(row, case) for row in ROWS for case in CASES if fits(row, case)],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_row(row, case):
    """The result of a row is what `starts` returns in each case to which it applies."""
    asked, awaited, held, autorun, dispatchers = case
    with hold_starts() if CHOICES[held] else contextlib.nullcontext():
        started = starts(
            CHOICES[autorun],
            asked=CHOICES[asked],
            is_awaited=CHOICES[awaited],
            dispatchers=[
                SimpleNamespace(starts_listener=True),
                SimpleNamespace(starts_listener=dispatchers == "all"),
            ],
        )
    assert started is CHOICES[row[-1]]


def test_holds_may_overlap():
    """Starts are held until the last of overlapping blocks has ended, in any order."""

    def would_start():
        return starts(None, asked=True, is_awaited=False, dispatchers=[])

    first, second = hold_starts(), hold_starts()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not would_start()
    second.__exit__(None, None, None)
    assert would_start()
