"""One statement at a time, each on a connection of its own: enough for an example."""

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg

from store.settings import DSN


def execute(query: LiteralString, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement in a transaction of its own and return its rows, if it has any."""
    with psycopg.connect(DSN) as connection:
        cursor = connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []
