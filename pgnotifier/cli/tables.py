"""Tables, as commands print them."""

from collections.abc import Iterable, Mapping


def format_table(headings: Mapping[str, str], rows: Iterable[Mapping[str, str | None]]) -> str:
    """Return a table with aligned columns, one line for each row.

    Args:
        headings: The heading of each column, by its key in the rows.
        rows: What to show. A dash stands for what is empty or None.
    """
    lines = [headings, *({key: row[key] or "-" for key in headings} for row in rows)]
    widths = {key: max(len(line[key]) for line in lines) for key in headings}
    return "\n".join(
        "  ".join(line[key].ljust(widths[key]) for key in headings).rstrip() for line in lines
    )
