"""Read the names of tables and columns in options, written as in SQL."""

import re

import click

_NAME = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\W\d][\w$]*))\s*')
_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def read_table(text: str) -> tuple[str | None, str]:
    """Return the schema, if one is given, and the table: `orders`, `shop.orders`, `"My Table"`.

    As in SQL, a name without quotes is in lower case.

    Raises:
        UsageError: It isn't such a name.
    """
    names = _read(text, ".")
    if len(names) > 2:
        raise click.UsageError(f"{text!r} isn't the name of a table, or of a schema and a table")
    return (names[0], names[1]) if len(names) == 2 else (None, names[0])


def read_names(text: str | None) -> list[str]:
    """Return the names in a list with commas.

    Raises:
        UsageError: It isn't such a list.
    """
    return [] if text is None else _read(text, ",")


def _read(text: str, separator: str) -> list[str]:
    names, at = [], 0
    while found := _NAME.match(text, at):
        quoted, plain = found.groups()
        name = quoted.replace('""', '"') if quoted else plain.translate(_ASCII_LOWER)
        names.append(name)
        at = found.end()
        if at == len(text):
            return names
        if text[at] != separator:
            break
        at += 1
    raise click.UsageError(
        f"{text!r} isn't written as names are in SQL: put one that isn't plain into double quotes"
    )
