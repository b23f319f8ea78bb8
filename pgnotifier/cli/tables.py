"""Tables and lists of values, as commands print them.

What is shown may come from anybody who can notify or publish, so escape sequences in it are shown
as text.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pgnotifier.cli.printable import printable


def format_table(headings: Mapping[str, str], rows: Iterable[Mapping[str, str | None]]) -> str:
    """Return a table with aligned columns, one line for each row.

    Args:
        headings: The heading of each column, by its key in the rows.
        rows: What to show. A dash stands for what is empty or None.
    """
    lines = [headings, *({key: printable(row[key] or "-") for key in headings} for row in rows)]
    widths = {key: max(len(line[key]) for line in lines) for key in headings}
    return "\n".join(
        "  ".join(line[key].ljust(widths[key]) for key in headings).rstrip() for line in lines
    )


def format_values(values: Mapping[str, Any]) -> str:
    """Return values with their names, one below the other, and longer texts below the name.

    A dash stands for None. Dicts and lists are shown as JSON.
    """
    return "\n".join(_format_values(values))


def _format_values(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict | list | tuple):
            text = json.dumps(value, ensure_ascii=False, default=repr)
        else:
            text = "-" if value is None else str(value)
        lines = [*map(printable, text.split("\n"))]
        yield "\n".join([f"{name}:", *lines]) if len(lines) > 1 else f"{name}: {lines[0]}"
