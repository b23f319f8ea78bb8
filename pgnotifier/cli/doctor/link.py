"""The connection of `doctor` to the database, with a deadline for every answer."""

import contextlib
import os
import socket
from collections.abc import Callable
from math import ceil
from typing import Any, Self, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier._connection.parameters import Parameters
from pgnotifier.cli.doctor.asking import NoAnswerError, within

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

NAME = "pgnotifier doctor"
"""The `application_name` of its sessions."""
_CANCEL = 1.0
"""Seconds within which a query that takes too long is canceled."""


class Link:
    """A connection in autocommit mode.

    Attributes:
        connection: The connection.
        is_pooled: Whether a pooler is in between.
        shares_sessions: Whether that pooler gives a session to several clients in turn.
        is_standby: Whether the server is a standby server.
        application_name: The `application_name` that the application's sessions have, if it
            sets one.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        timeout: float,
        application_name: str | None = None,
    ) -> None:
        """Take a connection.

        Args:
            connection: The connection.
            timeout: Seconds within which each question must be answered.
            application_name: The name that the application's sessions have.
        """
        self.connection = connection
        self.application_name = application_name
        self.is_pooled = self.shares_sessions = self.is_standby = False
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    @property
    def is_lost(self) -> bool:
        """Whether nothing more can be asked."""
        return self.connection.closed

    def ask(self, query: str, values: tuple[Any, ...] | None = None) -> Rows:
        """Return the rows of a query.

        Raises:
            NoAnswerError: There was no answer in time; the connection is closed then.
            psycopg.Error: The server refused the query.
        """
        return self.call(lambda connection: _fetch(connection, query, values))

    def call(self, ask: Callable[[psycopg.Connection[Any]], T], grace: float = 0.0) -> T:
        """Return the result of a function that uses the connection.

        Args:
            ask: The function.
            grace: Seconds that it may take longer.

        Raises:
            NoAnswerError: It took longer; the connection is closed then.
            Exception: Whatever it raises.
        """
        try:
            return within(self._timeout + grace, lambda: ask(self.connection))
        except NoAnswerError:
            self._cut()
            raise

    def _cut(self) -> None:
        """End the query that is under way, and the connection."""
        with contextlib.suppress(psycopg.Error, OSError):
            self.connection.cancel_safe(timeout=_CANCEL)
        # A thread waits for this socket; closing it would not wake the thread up.
        with (
            contextlib.suppress(psycopg.Error, OSError),
            socket.socket(fileno=os.dup(self.connection.fileno())) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def open_link(parameters: Parameters, timeout: float) -> Link:
    """Connect as the application would.

    Args:
        parameters: The application's parameters.
        timeout: Seconds to wait for the connection, and later for each answer.

    Raises:
        NoAnswerError: There was no answer in time.
        PgNotifierError: The connection could not be made.
    """
    given = within(timeout, parameters.resolve).conninfo  # a callable may take its time, too
    known = conninfo_to_dict(given)
    name = known.get("application_name")
    for_each = max(2, ceil(timeout))  # libpq takes no less than two seconds
    changed = {"application_name": NAME, "connect_timeout": str(for_each)}
    meant = Parameters(make_conninfo(given, **changed))
    more = str(known.get("hostaddr") or known.get("host") or "").count(",")
    connection = within(timeout + more * for_each, meant.connect, lambda late: late.close())
    return Link(connection, timeout, None if name is None else str(name))


def _fetch(connection: psycopg.Connection[Any], query: str, values: tuple[Any, ...] | None) -> Rows:
    cursor = connection.execute(query.encode(), values)
    rows = cursor.fetchall() if cursor.description else []
    return [tuple(map(_to_text, row)) for row in rows]


def _to_text(value: Any) -> Any:
    """Return a value; a text that PostgreSQL can't convert to UTF-8 comes as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
