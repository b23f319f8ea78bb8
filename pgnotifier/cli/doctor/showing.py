"""Print findings as they come: in colour in a terminal, and otherwise as plain text."""

import sys
from collections import Counter
from collections.abc import Callable

import click

from pgnotifier._runtime.log_records import count
from pgnotifier.cli.doctor.findings import Finding, Level

_WORDS = {"ok": "ok", "warning": "warning", "failed": "FAILED"}
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red")}
_WIDTH = 13  # of the names of checks

SHOWN = 10
"""How many findings of one check and level are printed; the others are counted."""

Print = Callable[[Finding], None]


class Report:
    """Prints findings as they come, and how many there were."""

    def __init__(self) -> None:
        """Begin with none."""
        self._print = choose_print()
        self._counts: Counter[tuple[str, Level]] = Counter()

    def add(self, one: Finding) -> None:
        """Print a finding, unless there were many like it."""
        kind = (one.check, one.level)
        self._counts[kind] += 1
        if self._counts[kind] <= SHOWN:
            self._print(one)

    def end(self) -> None:
        """Print how many findings there were, and how many of them weren't printed."""
        for (check, level), number in self._counts.items():
            if number > SHOWN:
                self._print(Finding(check, level, f"{number - SHOWN} more; --json shows them all."))
        click.echo(summarize(self._counts))


def choose_print() -> Print:
    """Return a function that prints a finding."""
    if not sys.stdout.isatty() or "utf" not in (sys.stdout.encoding or "").lower():
        return _print_plainly
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:  # extras such as `celery` don't install it
        return _print_plainly
    console = Console(highlight=False)

    def show(one: Finding) -> None:
        mark, style = _MARKS[one.level]
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(width=_WIDTH)
        grid.add_column(overflow="fold")
        grid.add_row(Text(mark, style), Text(one.check, "bold"), Text(one.seen))
        if one.advice:
            grid.add_row("", "", Text(f"→ {one.advice}", "cyan"))
        console.print(grid)

    return show


def summarize(counts: "Counter[tuple[str, Level]]") -> str:
    """Return the last line.

    Args:
        counts: How many findings there are, by check and level.
    """
    numbers = {"failure": 0, "warning": 0}
    for (_, level), number in counts.items():
        if level != "ok":
            numbers["failure" if level == "failed" else "warning"] += number
    said = [count(number, name) for name, number in numbers.items() if number]
    return f"{' and '.join(said)} in {count(counts.total(), 'check')}." if said else "All is well."


def _print_plainly(one: Finding) -> None:
    advice = f" → {one.advice}" if one.advice else ""
    line = f"{_WORDS[one.level]:8} {one.check:{_WIDTH}} {one.seen}{advice}"
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
