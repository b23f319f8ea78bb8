"""Write names and texts into the SQL of triggers."""

import hashlib

from pgnotifier._connection.parameters import MAX_NAME_BYTES

_ESCAPED = frozenset("$%")


def quote(name: str) -> str:
    """Return a name as an identifier, without `$` and `%`: see `_escape`."""
    if not _ESCAPED.intersection(name):
        return '"' + name.replace('"', '""') + '"'
    return 'U&"' + _escape(name, '"', "\\{:04x}") + '"'


def quote_plainly(*names: str | None) -> str:
    """Return a qualified name as the input of a regclass takes it: without Unicode escapes."""
    return ".".join('"' + one.replace('"', '""') + '"' for one in names if one is not None)


def literal(text: str) -> str:
    """Return a text as a literal, without `$` and `%`: see `_escape`.

    The literal doesn't depend on `standard_conforming_strings` of the session in which a trigger
    runs: backslashes are only used in `E''`, because `U&''` is an error if the setting is off.
    https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE
    """
    if "\\" not in text and not _ESCAPED.intersection(text):
        return "'" + text.replace("'", "''") + "'"
    return "E'" + _escape(text, "'", "\\u{:04x}") + "'"


def _escape(text: str, mark: str, escape: str) -> str:
    """Escape a text, including `$` and `%`.

    `$` could end a dollar-quoted string. Django and psycopg treat `%` as a placeholder in some
    statements, but not in others.
    """
    escaped = text.replace("\\", "\\\\").replace(mark, mark * 2)
    for one in sorted(_ESCAPED):
        escaped = escaped.replace(one, escape.format(ord(one)))
    return escaped


def shorten(name: str, size: int = MAX_NAME_BYTES) -> str:
    """Return a name; if it has more bytes than allowed, replace its end by a hash of the name."""
    if len(name.encode()) <= size:
        return name
    hashed = digest(name)[:16]
    head = name.encode()[: size - len(hashed) - 1].decode(errors="ignore")
    return f"{head}_{hashed}"


def digest(text: str) -> str:
    """Return a hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
