"""Tables, as commands print them."""

from collections.abc import Iterable, Mapping


def printable(text: str, limit: int = 0) -> str:
    r"""Return a text without control characters: a terminal would obey them.

    They are written as in Python: `\x1b`.

    Args:
        text: It may come from anybody.
        limit: How many characters it may have; 0 for any number.
    """
    shown = text if text.isprintable() else "".join(map(_show_character, text))
    return f"{shown[: limit - 1]}…" if 0 < limit < len(shown) else shown


def _show_character(one: str) -> str:
    return one if one.isprintable() else one.encode("unicode_escape").decode()


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
