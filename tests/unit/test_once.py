"""Something is done once, on each kind of connection."""

import asyncio
from contextlib import suppress

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pgnotifier.errors import AlreadyDoneError, ArgumentTypeError, ConfigurationError
from pgnotifier.once import aonce, once

EFFECT = "INSERT INTO effect VALUES ('a')"


class OddError(Exception):
    """What a block raises."""


@pytest.fixture(autouse=True)
def effect(log):
    """Make the table of effects."""
    log.execute("CREATE TABLE effect (id text)")


@pytest.fixture
def engine(log):
    """Yield an engine of SQLAlchemy."""
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connect(log))
    yield engine
    engine.dispose()


def connect(log):
    return psycopg.connect(log.dsn)


def effects(log):
    """Return how many effects there are."""
    return log.execute("SELECT count(*) FROM effect")[0][0]


@pytest.fixture(params=["autocommit", "psycopg", "cursor", "Connection", "Session", "scoped"])
def connection(request, log, engine):
    """Yield a connection of each kind."""
    if request.param in ("autocommit", "psycopg", "cursor"):
        with psycopg.connect(log.dsn, autocommit=request.param == "autocommit") as connection:
            yield connection.cursor() if request.param == "cursor" else connection
    elif request.param == "Connection":
        with engine.connect() as connection:
            yield connection
    elif request.param == "Session":
        with Session(engine) as session:
            yield session
    else:
        session = scoped_session(sessionmaker(engine))
        yield session
        session.remove()


def act(connection):
    """Have an effect."""
    is_alchemy = "sqlalchemy" in type(connection).__module__
    connection.execute(sqlalchemy.text(EFFECT) if is_alchemy else EFFECT)


def test_once(log, connection):
    """The block is a transaction, which is committed once."""
    for _ in range(3):
        with suppress(AlreadyDoneError), once(connection, "a") as same:
            assert same is connection
            act(connection)
    assert effects(log) == 1
    with pytest.raises(AlreadyDoneError, match="'a' has been done already"):  # noqa: SIM117
        with once(connection, "a"):
            pytest.fail("the block began")


def test_a_block_that_fails(log, connection):
    """What the block raises rolls back the effects and the id."""
    with pytest.raises(OddError), once(connection, "a"):
        act(connection)
        raise OddError
    assert effects(log) == 0
    with once(connection, "a"):
        act(connection)
    assert effects(log) == 1


def test_in_an_open_transaction(log, connection):
    """In a transaction that is open, the block is a savepoint, and the caller commits."""
    act(connection)
    if getattr(connection, "autocommit", False):
        connection.execute("BEGIN")
    with once(connection, "a"):
        act(connection)
    with pytest.raises(AlreadyDoneError), once(connection, "a"):
        act(connection)
    owner = getattr(connection, "connection", connection)
    (owner if isinstance(connection, psycopg.Cursor) else connection).rollback()
    before = effects(log)
    with once(connection, "a"):
        act(connection)
    assert effects(log) == before + 1


def test_blocks_in_blocks(log, connection):
    """A block in another one is a part of its transaction."""
    with pytest.raises(OddError), once(connection, "a"):
        with once(connection, "b"):
            act(connection)
        raise OddError
    assert effects(log) == 0
    with once(connection, "b"):
        act(connection)
    assert effects(log) == 1


@pytest.mark.parametrize("kind", ["psycopg", "cursor", "AsyncConnection", "AsyncSession", "scoped"])
def test_asyncio(log, kind):
    """The same works with connections for asyncio."""

    async def work(connection, effect):
        for _ in range(2):
            with suppress(AlreadyDoneError):
                async with aonce(connection, "a"):
                    await connection.execute(effect)
        with pytest.raises(OddError):
            async with aonce(connection, "b"):
                await connection.execute(effect)
                raise OddError
        async with aonce(connection, "b"):
            with pytest.raises(AlreadyDoneError):
                async with aonce(connection, "a"):
                    await connection.execute(effect)
            await connection.execute(effect)

    async def main():
        if kind in ("psycopg", "cursor"):
            async with await psycopg.AsyncConnection.connect(log.dsn) as connection:
                await work(connection.cursor() if kind == "cursor" else connection, EFFECT)
            return
        engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=lambda: psycopg.AsyncConnection.connect(log.dsn),
        )
        if kind == "scoped":
            maker = async_sessionmaker(engine)
            scope = async_scoped_session(maker, scopefunc=asyncio.current_task)
            await work(scope, sqlalchemy.text(EFFECT))
            await scope.close()
        else:
            opened = engine.connect() if kind == "AsyncConnection" else AsyncSession(engine)
            async with opened as connection:
                await work(connection, sqlalchemy.text(EFFECT))
        await engine.dispose()

    asyncio.run(main())
    assert effects(log) == 2


def test_autocommit_of_sqlalchemy(log, engine):
    """With an engine that commits each statement, nothing can be done once."""
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(ConfigurationError, match="AUTOCOMMIT"),
        once(connection, "a"),
    ):
        act(connection)
    assert effects(log) == 0


def test_other_arguments(log):
    """What isn't a connection, or is one for asyncio, is refused."""
    for one in (object(), log.dsn, None):
        with (
            pytest.raises(ArgumentTypeError, match="psycopg, SQLAlchemy or Django"),
            once(one, "a"),
        ):
            pytest.fail("the block began")

    async def main():
        async with await psycopg.AsyncConnection.connect(log.dsn) as connection:
            with pytest.raises(ArgumentTypeError, match="aonce"), once(connection, "a"):
                pytest.fail("the block began")

    asyncio.run(main())
