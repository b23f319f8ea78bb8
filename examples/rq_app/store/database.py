"""Execute single statements, each on a new connection: simple enough for an example."""

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg

from store.settings import DSN


def execute(query: LiteralString, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Execute a statement in its own transaction, and return its rows, if it has any."""
    with psycopg.connect(DSN) as connection:
        cursor = connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []
