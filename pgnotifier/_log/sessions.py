"""Execute statements on users' own connections: of psycopg, SQLAlchemy, Django or psycopg2.

SQLAlchemy and psycopg2 are never imported here: a connection of theirs is only there if somebody
else has imported them.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from itertools import count
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgnotifier._connection.encoding import Encoding
from pgnotifier._connection.session import encoding_of
from pgnotifier._log.by_psycopg import Query, execute_together, for_psycopg
from pgnotifier.errors import ArgumentTypeError

Rows = Sequence[tuple[Any, ...]]


class SyncConnection(Protocol):
    """A connection or session that commits: of psycopg, psycopg2, SQLAlchemy or Django."""

    def commit(self) -> None:
        """Commit the transaction."""

    def rollback(self) -> None:
        """Roll the transaction back."""


class AsyncioConnection(Protocol):
    """The same for asyncio: of psycopg or SQLAlchemy."""

    async def commit(self) -> None:
        """Commit the transaction."""

    async def rollback(self) -> None:
        """Roll the transaction back."""


class Cursor(Protocol):
    """A cursor of any driver: https://peps.python.org/pep-0249/#cursor-objects."""

    @property
    def description(self) -> Any:
        """What columns the rows have; None if there are no rows."""

    def execute(self, operation: Any, parameters: Any = ..., /) -> Any:
        """Execute a statement."""

    def fetchall(self) -> Any:
        """Return the rows."""


Given = SyncConnection | Cursor
GivenForAsyncio = AsyncioConnection | psycopg.AsyncCursor[Any]


class Session(ABC):
    """Executes the statements of a publication on a user's connection.

    Attributes:
        encoding: The database's encoding, if the driver says what it is.
        database: What identifies the database, if the driver says so: its server and name, and the
            process that serves the connection, because the name may belong to another one later.
    """

    encoding: Encoding | None
    database: Hashable = None

    @property
    def commits_each(self) -> bool:
        """Whether each statement is committed, although a transaction seems to be open."""
        return False

    @abstractmethod
    def execute(self, statement: str, arguments: tuple[Any, ...]) -> Rows:
        """Execute a statement with `%s` for each argument; return its rows."""

    def execute_all(self, queries: Iterable[Query]) -> None:
        """Execute statements that return rows, in one round trip if the driver can do that."""
        for query in queries:
            self.execute(*query)

    @abstractmethod
    def run(self, statement: str) -> None:
        """Execute a statement as it is, without arguments. It returns no rows."""

    @abstractmethod
    def array(self, texts: Sequence[str | None]) -> Any:
        """Return the argument for `ARRAY`."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object]:
        """Return a transaction around several statements, unless one is open."""


def find_session(connection: object) -> Session:
    """Return the session for a user's connection.

    Raises:
        ArgumentTypeError: It isn't a connection, or it is one for asyncio.
    """
    if isinstance(connection, psycopg.Cursor):
        connection = connection.connection
    if isinstance(connection, psycopg.Connection):
        return _PsycopgSession(connection)
    if _is_instance(connection, "django.utils.connection", "ConnectionProxy"):  # `django.db`'s
        connection = sys.modules["django.db"].connections[connection.alias]  # type: ignore[attr-defined]
    if _is_instance(connection, "sqlalchemy.orm", "Session", "scoped_session"):
        return _AlchemySession(connection.connection())  # type: ignore[attr-defined]
    if _is_instance(connection, "sqlalchemy.engine", "Connection"):
        return _AlchemySession(connection)
    if _is_instance(connection, "psycopg2.extensions", "cursor"):
        connection = connection.connection  # type: ignore[attr-defined]
    if _is_instance(connection, "psycopg2.extensions", "connection"):
        return _Psycopg2Session(connection)
    if _is_instance(connection, "django.db.backends.utils", "CursorWrapper"):
        connection = connection.db  # type: ignore[attr-defined]
    if _is_instance(connection, "django.db.backends.postgresql.base", "DatabaseWrapper"):
        return DjangoSession(connection)
    if is_for_asyncio(connection):
        raise ArgumentTypeError(
            f"{type(connection).__name__} is for asyncio: await apublish() or apublish_many()"
        )
    if all(hasattr(connection, name) for name in ("execute", "fetchall", "description")):
        return _CursorSession(connection)
    raise _unknown(connection)


def find_database(driver: Any) -> Hashable:
    """Return what identifies a connection's database; None if the driver hides it."""
    info = getattr(driver, "info", None)
    parts = tuple(getattr(info, name, None) for name in ("host", "port", "dbname", "backend_pid"))
    return None if None in parts else parts


def is_for_asyncio(connection: object) -> bool:
    """Return whether it is a connection, a cursor or a session for asyncio."""
    return isinstance(
        connection, psycopg.AsyncConnection | psycopg.AsyncCursor
    ) or is_async_alchemy(connection)


def is_async_alchemy(connection: object) -> bool:
    """Return whether it is one of SQLAlchemy for asyncio."""
    names = ("AsyncConnection", "AsyncSession", "async_scoped_session")
    return _is_instance(connection, "sqlalchemy.ext.asyncio", *names)


def unscoped(connection: Any) -> Any:
    """Return the session of a `scoped_session`, which passes on only some of its methods."""
    registry = getattr(connection, "registry", None)
    return connection if registry is None else registry()


def is_alchemy(connection: object) -> bool:
    """Return whether it is a `Connection` or a `Session` of SQLAlchemy."""
    return _is_instance(connection, "sqlalchemy.engine", "Connection") or _is_instance(
        connection, "sqlalchemy.orm", "Session", "scoped_session"
    )


def is_django(connection: object) -> bool:
    """Return whether it is a connection of Django to PostgreSQL, or `django.db.connection`."""
    return _is_instance(connection, "django.utils.connection", "ConnectionProxy") or _is_instance(
        connection, "django.db.backends.postgresql.base", "DatabaseWrapper"
    )


def find_async_connection(connection: object) -> psycopg.AsyncConnection[Any]:
    """Return the connection of psycopg for asyncio.

    Raises:
        ArgumentTypeError: It isn't one.
    """
    if isinstance(connection, psycopg.AsyncCursor):
        connection = connection.connection
    if not isinstance(connection, psycopg.AsyncConnection):
        if isinstance(connection, psycopg.Connection | psycopg.Cursor):
            raise ArgumentTypeError(
                f"{type(connection).__name__} isn't for asyncio: use publish() or publish_many()"
            )
        raise _unknown(connection)
    return connection


def _unknown(connection: object) -> ArgumentTypeError:
    return ArgumentTypeError(
        "publish with a connection of psycopg, psycopg2, SQLAlchemy or Django, not with "
        f"{type(connection).__module__}.{type(connection).__qualname__}"
    )


def _is_instance(value: object, module: str, *names: str) -> bool:
    """Return whether it is an instance of a class in a module, which may not be imported."""
    loaded = sys.modules.get(module)
    return any(
        isinstance(cls := getattr(loaded, name, None), type) and isinstance(value, cls)
        for name in names
    )


def has_no_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Return whether each statement would be a transaction of its own."""
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    return connection.autocommit and idle


class _PsycopgSession(Session):
    """A connection of psycopg, and a cursor of our own on it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.encoding: Encoding | None = encoding_of(connection)
        self.database = find_database(connection)

    def execute(self, statement: str, arguments: tuple[Any, ...]) -> Rows:
        # Not `connection.execute`: its cursors may have another row factory, or write arguments
        # into the statement.
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            return cursor.execute(for_psycopg(statement), arguments).fetchall()

    def execute_all(self, queries: Iterable[Query]) -> None:
        execute_together(self._connection, list(queries))

    def run(self, statement: str) -> None:
        text: Any = statement  # not bytes, as it is sent in the client's encoding
        with psycopg.Cursor(self._connection) as cursor:
            cursor.execute(text)

    def array(self, texts: Sequence[str | None]) -> Any:
        return list(texts)

    def transaction(self) -> AbstractContextManager[object]:
        # A transaction inside another one would be a savepoint, which isn't needed.
        return (
            self._connection.transaction()
            if has_no_transaction(self._connection)
            else nullcontext()
        )


class _TextArrays(Session):
    """Sends an array as its text, which each driver can send."""

    def array(self, texts: Sequence[str | None]) -> str:
        """Return the text: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO."""
        return "{" + ",".join([_quote(one) for one in texts]) + "}"


def _quote(text: str | None) -> str:
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _AlchemySession(_TextArrays):
    """A `Connection` of SQLAlchemy. It begins a transaction by itself."""

    encoding: Encoding | None = None  # how to find it depends on the driver

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.database = find_database(getattr(connection.connection, "driver_connection", None))

    def execute(self, statement: str, arguments: tuple[Any, ...]) -> Rows:
        named = {f"a{number}": one for number, one in enumerate(arguments)}
        result = self._connection.execute(_for_alchemy(statement), named)
        return [tuple(row) for row in result] if result.returns_rows else []

    def run(self, statement: str) -> None:
        self._connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    @property
    def commits_each(self) -> bool:
        # SQLAlchemy begins no transaction then, even within `begin()`.
        return bool(getattr(self._connection.connection, "autocommit", False))

    def transaction(self) -> AbstractContextManager[object]:
        return _begin(self.execute) if self.commits_each else nullcontext()


@lru_cache
def _for_alchemy(statement: str) -> Any:
    from sqlalchemy import text

    numbers = count()
    parts = statement.split("%s")
    named = "".join(f"{part}:a{next(numbers)}" for part in parts[:-1]) + parts[-1]
    return text(named)


class _Psycopg2Session(_TextArrays):
    """A connection of psycopg2."""

    encoding: Encoding | None = None

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.database = find_database(connection)

    def execute(self, statement: str, arguments: tuple[Any, ...]) -> Rows:
        plain = sys.modules["psycopg2.extensions"].cursor  # its rows are tuples
        with self._connection.cursor(cursor_factory=plain) as cursor:
            cursor.execute(statement, arguments or None)
            return [] if cursor.description is None else list(cursor.fetchall())

    def run(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def transaction(self) -> AbstractContextManager[object]:
        from psycopg2.extensions import TRANSACTION_STATUS_IDLE

        idle = self._connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        return _begin(self.execute) if self._connection.autocommit and idle else nullcontext()


class DjangoSession(_TextArrays):
    """A connection of Django, which logs statements and counts them in tests."""

    def __init__(self, connection: Any) -> None:
        """Use a connection, an item of `django.db.connections`."""
        self._connection = connection
        connection.ensure_connection()
        driver = connection.connection
        is_psycopg = isinstance(driver, psycopg.Connection)
        self.encoding: Encoding | None = encoding_of(driver) if is_psycopg else None
        self.database = find_database(driver)

    def execute(self, statement: str, arguments: tuple[Any, ...]) -> Rows:
        """Execute a statement with `%s` for each argument; return its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, arguments)
            return list(cursor.fetchall())

    def run(self, statement: str) -> None:
        """Execute a statement as it is, without arguments."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def transaction(self) -> AbstractContextManager[object]:
        """Return a transaction around several statements, unless one is open."""
        from django.db.transaction import atomic

        if self._connection.in_atomic_block or not self._connection.get_autocommit():
            return nullcontext()
        block: AbstractContextManager[object] = atomic(using=self._connection.alias)
        return block


class _CursorSession(_TextArrays):
    """A cursor of another driver, which takes arguments as `%s`. Its user begins transactions."""

    encoding: Encoding | None = None

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, statement: str, arguments: tuple[Any, ...]) -> Rows:
        self._cursor.execute(statement, arguments)
        return [] if self._cursor.description is None else list(self._cursor.fetchall())

    def run(self, statement: str) -> None:
        self._cursor.execute(statement)

    def transaction(self) -> AbstractContextManager[object]:
        return nullcontext()


@contextmanager
def _begin(execute: Any) -> Iterator[None]:
    """Begin a transaction by a statement, on a connection in autocommit."""
    execute("BEGIN", ())
    try:
        yield
    except BaseException:
        execute("ROLLBACK", ())
        raise
    execute("COMMIT", ())
