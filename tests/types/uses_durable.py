"""What users publish with, which type checkers must accept."""

from datetime import date
from typing import Any, assert_type

import psycopg
import psycopg2
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import Session, scoped_session

from pgnotifier.durable import apublish, apublish_many, install, publish, publish_many


def find_key(payload: dict[str, Any]) -> str:
    """Return the key of a payload."""
    return str(payload["id"])


with psycopg.connect("dbname=shop") as connection:
    assert_type(install(connection), bool)
    assert_type(publish(connection, "orders", {"id": 7}), int)
    publish(connection.cursor(row_factory=dict_row), "orders")
    publish(connection, "orders", date.today(), "7", order="key", encoder=str)
    publish(connection, "orders", 1, notify=True)
    publish_many(connection, "orders", [1], notify=True)
    assert_type(publish_many(connection, "orders", [{"id": 7}], find_key, order="key"), list[int])
    publish_many(connection, "orders", range(5), "one for all", encoder=repr)

publish(psycopg2.connect("dbname=shop"), "orders", 1)
engine = sqlalchemy.create_engine("postgresql+psycopg://localhost/shop")
with engine.begin() as begun, Session(engine) as session:
    publish(begun, "orders", 1)
    publish(session, "orders", 1)


def publish_in_scope(scope: "scoped_session[Session]") -> None:
    """Publish in the session of this thread."""
    publish(scope, "orders", 1)


async def publish_in_coroutines(scope: "async_scoped_session[AsyncSession]") -> None:
    """Publish with asyncio."""
    async with await psycopg.AsyncConnection.connect("dbname=shop") as connection:
        assert_type(await apublish(connection, "orders", {"id": 7}, "7"), int)
        assert_type(await apublish_many(connection.cursor(), "orders", [1, 2]), list[int])
    other = create_async_engine("postgresql+asyncpg://localhost/shop")
    async with other.begin() as begun, AsyncSession(other) as session:
        await apublish(begun, "orders", 1)
        await apublish(session, "orders", 1)
    await apublish(scope, "orders", 1)
    assert_type(await apublish_many(scope, "orders", [1, 2]), list[int])
