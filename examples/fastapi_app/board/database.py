"""Execute single statements, each on a new connection: simple enough for an example."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString

from psycopg import AsyncConnection

from board.settings import DSN


async def execute(query: LiteralString, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Execute a statement in its own transaction, and return its rows, if it has any."""
    async with await AsyncConnection.connect(DSN) as connection:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall() if cursor.description else []


async def create() -> None:
    """Create the table and its trigger."""
    async with await AsyncConnection.connect(DSN) as connection:
        await connection.execute(Path(__file__).with_name("schema.sql").read_bytes())
