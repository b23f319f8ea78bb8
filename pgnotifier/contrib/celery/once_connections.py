"""Open the connection for the transaction of a `Once` task.

What users give may be a Django alias, a pool, an engine or a sessionmaker of SQLAlchemy, or any
callable that returns a connection. Without it, connections are made of `pgnotifier_dsn`, and kept.
"""

import atexit
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psycopg

from pgnotifier._connection.inheriting import keep_from_children
from pgnotifier._connection.parameters import Parameters, make_parameters
from pgnotifier._log.sessions import is_django
from pgnotifier._runtime.process import renew_in_children
from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.contrib.celery.settings import read_setting
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

KEPT = 8
"""How many connections that no task uses are kept."""
_ATTRIBUTES = (
    *("row_factory", "cursor_factory", "server_cursor_factory"),
    *("isolation_level", "read_only", "deferrable", "autocommit"),
    *("prepare_threshold", "prepared_max"),
)
"""What a task may set on a connection of psycopg."""
_RESET = """
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP;
SELECT pg_catalog.pg_advisory_unlock_all()
"""
"""Undoes what a task has set in its session; what the connection string sets stays. DISCARD ALL
would also drop the plans of functions, and making them again takes longer than all the rest.
https://www.postgresql.org/docs/current/sql-reset.html"""


class Spares:
    """Connections to one database that are kept for the next tasks. The lock guards the list."""

    def __init__(self, parameters: Parameters) -> None:
        """Connect to nothing yet."""
        self._parameters = parameters
        self._lock = ForkSafeLock()
        self._spare: list[psycopg.Connection[Any]] = []
        renew_in_children(self)

    def renew(self) -> None:
        """Forget the parent's connections, in a forked child."""
        self._spare = []

    def close(self) -> None:
        """Close the connections that no task uses."""
        with self._lock:
            spare, self._spare = self._spare, []
        for connection in spare:
            connection.close()

    @contextmanager
    def lease(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection in autocommit mode, on which no transaction is open.

        What a task has set on it isn't there for the next one.
        """
        connection = self._take()
        attributes = {name: getattr(connection, name) for name in _ATTRIBUTES}
        try:
            yield connection
        finally:
            self._give_back(connection, attributes)

    def _take(self) -> psycopg.Connection[Any]:
        while True:
            with self._lock:
                found = self._spare.pop() if self._spare else None
            if found is None:
                break
            if _is_reset(found):
                return found
            found.close()
        # Unlike pgnotifier's own sessions, these keep the application's search_path.
        conninfo = self._parameters.resolve().conninfo
        return keep_from_children(
            psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
        )

    def _give_back(
        self, connection: psycopg.Connection[Any], attributes: Mapping[str, Any]
    ) -> None:
        idle = psycopg.pq.TransactionStatus.IDLE
        is_fit = not connection.closed and connection.info.transaction_status == idle
        if is_fit:
            for name, value in attributes.items():
                setattr(connection, name, value)
        with self._lock:
            if is_fit and len(self._spare) < KEPT:
                self._spare.append(connection)
                return
        connection.close()


def _is_reset(connection: psycopg.Connection[Any]) -> bool:
    """Reset a session; return whether it could be: the server may have been restarted since."""
    try:
        connection.execute(_RESET)
    except psycopg.Error:
        return False
    return True


_lock = ForkSafeLock()  # guards the next one
_spares: dict[Any, Spares] = {}


@atexit.register
def close_spares() -> None:
    """Close the connections that no task uses: at the end of the process, for example."""
    with _lock:
        found = list(_spares.values())
    for one in found:
        one.close()


@contextmanager
def open_connection(using: Any, app: Any) -> Iterator[Any]:
    """Yield a connection for a transaction; it is given back or closed at the end.

    Args:
        using: What a task was given as `once_using`.
        app: The app. Its `pgnotifier_dsn` is used if that is None.

    Raises:
        ConfigurationError: There is neither.
        ArgumentTypeError: A connection can't be opened with it.
    """
    if isinstance(using, str) and not _is_dsn(using):
        yield _find_alias(using)
    elif using is None or isinstance(using, str | Mapping):
        with _find_spares(using, app).lease() as connection:
            yield connection
    else:
        with _open(using) as connection:
            yield connection


def _is_dsn(text: str) -> bool:
    return "=" in text or "://" in text


def _find_alias(alias: str) -> Any:
    if "django.db" not in sys.modules:
        raise ConfigurationError(
            f"once_using={alias!r} names a database of Django, which isn't set up here"
        )
    return sys.modules["django.db"].connections[alias]


def _find_spares(given: Any, app: Any) -> Spares:
    found: Any = read_setting(app, "dsn") if given is None else given
    if not found:
        raise ConfigurationError(
            "a task that is done once needs a database: set app.conf.pgnotifier_dsn, or the "
            "task's once_using"
        )
    key: Any = repr(sorted(found.items())) if isinstance(found, Mapping) else found
    with _lock:
        if key not in _spares:
            _spares[key] = Spares(make_parameters(found))
        return _spares[key]


def _open(using: Any) -> AbstractContextManager[Any]:
    if is_django(using):
        return nullcontext(using)
    if not isinstance(using, type):
        for name in ("connection", "connect"):  # a pool of psycopg; an engine
            if not callable(using) and callable(found := getattr(using, name, None)):
                return _as_block(found())
        if callable(using):  # a sessionmaker, or a function
            return _as_block(using())
    raise ArgumentTypeError(
        "once_using takes a connection string, a Django alias, a pool, an engine, a sessionmaker "
        f"or a callable that returns a connection, not {using!r:.80}"
    )


def _as_block(opened: Any) -> AbstractContextManager[Any]:
    """Return a context manager that gives the connection back; one of Django's stays open."""
    has_exit = hasattr(opened, "__exit__")
    block: AbstractContextManager[Any] = opened if has_exit else nullcontext(opened)
    return block
