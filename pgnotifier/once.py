"""Do something once: what is done and the note that it is done are one transaction.

    with once(connection, task_id):
        connection.execute("UPDATE …")

A `with` block can't be skipped, so if the id is done already, this raises `AlreadyDoneError` before
the block begins. To go on quietly:

    with suppress(AlreadyDoneError), once(connection, task_id):
        connection.execute("UPDATE …")
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import psycopg
from psycopg.rows import tuple_row

from pgnotifier._log import done, sessions
from pgnotifier.errors import AlreadyDoneError, ArgumentTypeError

__all__ = ["AlreadyDoneError", "aonce", "once"]

C = TypeVar("C")


@contextmanager
def once(connection: C, id: str) -> Iterator[C]:
    """Open a transaction for what is to be done once under an id, and yield the connection.

    The id is inserted by this very transaction, so either both the effects and the id are committed
    or neither is. If another transaction is doing the same, this waits until it has ended: after a
    commit, it is done already; after a rollback, the block begins.

    In an open transaction, this is a savepoint of it, and the caller commits. Otherwise the block
    is a transaction of its own.

    Args:
        connection: A connection or cursor of psycopg; a Connection or Session of SQLAlchemy; a
            connection of Django, such as `connections["default"]`.
        id: What is the same for each try, such as the id of a task: up to 1 kB.

    Raises:
        AlreadyDoneError: It has been done already, or this very transaction is doing it. The
            block doesn't begin.
        LogNotInstalledError: The database has no durable log, or an old one.
        LogRefusedError: The role has no right to, or the transaction is read-only.
        ConfigurationError: The id is empty or too long, or the engine of SQLAlchemy commits each
            statement.
        ArgumentTypeError: The connection is none of these, or the id isn't a str.
    """
    checked = done.check_id(id)
    with open_block(connection):
        done.claim(sessions.find_session(connection), checked)
        yield connection


@asynccontextmanager
async def aonce(connection: C, id: str) -> AsyncIterator[C]:
    """Do the same with a connection for asyncio: see `once`.

    Args:
        connection: An AsyncConnection or AsyncCursor of psycopg; an AsyncConnection,
            AsyncSession or async_scoped_session of SQLAlchemy.
        id: As for `once`.
    """
    checked = done.check_id(id)
    if sessions.is_async_alchemy(connection):
        given = sessions.unscoped(connection)
        async with given.begin_nested() if given.in_transaction() else given.begin():
            await given.run_sync(_claim_alchemy, checked)
            yield connection
        return
    driver = sessions.find_async_connection(connection)
    async with driver.transaction(), psycopg.AsyncCursor(driver, row_factory=tuple_row) as cursor:
        with done.explained():
            await cursor.execute(done.ONCE, (checked,))
            row = await cursor.fetchone()
        done.check_first(row is not None and row[0], checked)
        yield connection


def open_block(connection: object) -> AbstractContextManager[object]:
    """Return a transaction on a user's connection, or a savepoint if one is open.

    Raises:
        ArgumentTypeError: It isn't a connection, or one for asyncio.
    """
    if isinstance(connection, psycopg.Cursor):
        connection = connection.connection
    if isinstance(connection, psycopg.Connection):
        return connection.transaction()
    if sessions.is_for_asyncio(connection):
        raise ArgumentTypeError(f"{type(connection).__name__} is for asyncio: use aonce()")
    given = sessions.unscoped(connection)
    if sessions.is_alchemy(connection):
        nests = given.in_transaction()
        return cast(
            "AbstractContextManager[object]", given.begin_nested() if nests else given.begin()
        )
    if sessions.is_django(connection):
        atomic = sys.modules["django.db.transaction"].atomic
        return cast("AbstractContextManager[object]", atomic(using=given.alias))
    raise ArgumentTypeError(
        "something is done once with a connection of psycopg, SQLAlchemy or Django, not with "
        f"{type(connection).__module__}.{type(connection).__qualname__}"
    )


def _claim_alchemy(connection: Any, id: str) -> None:
    done.claim(sessions.find_session(connection), id)
