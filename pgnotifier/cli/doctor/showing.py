"""Print findings as they come: in colour in a terminal, and otherwise as plain text."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable

import click

from pgnotifier._runtime.log_records import count
from pgnotifier.cli.doctor.findings import Finding, Level

_WORDS = {"ok": "ok", "warning": "warning", "failed": "FAILED"}
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red")}
_WIDTH = 13  # of the names of checks

Print = Callable[[Finding], None]


def choose_print() -> Print:
    """Return what prints a finding."""
    if not sys.stdout.isatty() or "utf" not in (sys.stdout.encoding or "").lower():
        return _print_plainly
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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


def summarize(levels: Iterable[Level]) -> str:
    """Return the last line."""
    found = Counter(levels)
    numbers = {"failure": found["failed"], "warning": found["warning"]}
    said = [count(number, name) for name, number in numbers.items() if number]
    return f"{' and '.join(said)} in {count(found.total(), 'check')}." if said else "All is well."


def _print_plainly(one: Finding) -> None:
    advice = f" → {one.advice}" if one.advice else ""
    line = f"{_WORDS[one.level]:8} {one.check:{_WIDTH}} {one.seen}{advice}"
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
