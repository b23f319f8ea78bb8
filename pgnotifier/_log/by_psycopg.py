"""Execute statements by psycopg: with arrays in binary, and several in one round trip.

https://www.psycopg.org/psycopg3/docs/advanced/pipeline.html
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.rows import tuple_row

Query = tuple[str, tuple[Any, ...]]
"""A statement with `%s` for each of its arguments."""

ARRAY = "CAST(CAST(%s AS pg_catalog.text) AS pg_catalog.text[])"
"""Stands for an array in a statement: see `Session.array`."""

_BINARY_ARRAY = "CAST(%b AS pg_catalog.text[])"


@lru_cache
def for_psycopg(statement: str) -> bytes:
    """Return a statement that takes arrays in binary, which are read in half the time."""
    return statement.replace(ARRAY, _BINARY_ARRAY).encode()


def execute_together(connection: psycopg.Connection[Any], queries: Sequence[Query]) -> None:
    """Execute statements that return rows, which are dropped.

    Raises:
        psycopg.Error: One of them has failed. Those after it weren't executed.
    """
    if len(queries) == 1 or not psycopg.Pipeline.is_supported():
        for statement, arguments in queries:
            with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(for_psycopg(statement), arguments).fetchall()
        return
    failed: psycopg.Error | None = None
    with connection.pipeline():
        cursors = [psycopg.Cursor(connection, row_factory=tuple_row) for _ in queries]
        try:
            for cursor, (statement, arguments) in zip(cursors, queries, strict=True):
                cursor.execute(for_psycopg(statement), arguments)
        except psycopg.Error as exc:  # maybe the error of an earlier one
            failed = exc
        for cursor in cursors:
            try:
                cursor.fetchall()
            except psycopg.Error as exc:  # psycopg would log those of the statements after it
                failed = failed or exc
    if failed is not None:
        raise failed


async def aexecute_together(
    connection: psycopg.AsyncConnection[Any], queries: Sequence[Query]
) -> None:
    """Execute statements on a connection for asyncio: see `execute_together`."""
    if len(queries) == 1 or not psycopg.AsyncPipeline.is_supported():
        for statement, arguments in queries:
            async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
                await cursor.execute(for_psycopg(statement), arguments)
                await cursor.fetchall()
        return
    failed: psycopg.Error | None = None
    async with connection.pipeline():
        cursors = [psycopg.AsyncCursor(connection, row_factory=tuple_row) for _ in queries]
        try:
            for cursor, (statement, arguments) in zip(cursors, queries, strict=True):
                await cursor.execute(for_psycopg(statement), arguments)
        except psycopg.Error as exc:  # maybe the error of an earlier one
            failed = exc
        for cursor in cursors:
            try:
                await cursor.fetchall()
            except psycopg.Error as exc:  # psycopg would log those of the statements after it
                failed = failed or exc
    if failed is not None:
        raise failed
