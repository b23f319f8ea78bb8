"""Connecting: a connection under way on a thread of its own."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import Session, encoding_of, forget_in_child, is_quiet
from pgnotifier.errors import (
    ConnectionFailedError,
    in_one_line,
)


class _ConnectingThread(threading.Thread):
    """A thread that makes a connection with these parameters, and on which `db_conf` is called."""

    def __init__(self, target: Callable[[], None], parameters: Parameters) -> None:
        super().__init__(target=target, name="pgnotifier-connect", daemon=True)
        self.parameters = parameters


def is_connecting_here(parameters: Parameters) -> bool:
    """Return whether the calling code is a `db_conf` that a listener's connection waits for."""
    thread = threading.current_thread()
    return isinstance(thread, _ConnectingThread) and thread.parameters is parameters


class Connecting:
    """A connection under way on a thread of its own.

    Looking a host up, and reaching one that doesn't answer, block for as long as they
    please; the reader goes on listening to `stop()` meanwhile, and walks away if need be.
    """

    def __init__(
        self,
        parameters: Parameters,
        wake: Callable[[], None],
        statement: bytes = b"",
        *,
        shuffle: bool = False,
    ) -> None:
        """Begin to connect.

        Args:
            parameters: Where to.
            wake: Called when it is done.
            statement: What to execute then, before it is done. Its first row is kept.
            shuffle: Whether to try hosts in a random order.
        """
        self._parameters = parameters
        self._wake = wake
        self._statement = statement
        self._shuffle = shuffle
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._error: Exception | None = None
        self._abandoned = False
        self.done = False
        self.row: tuple[Any, ...] = ()
        try:
            _ConnectingThread(self._run, parameters).start()
        except RuntimeError:
            # None to be had: too many, or Python 3.12.0/1 once the main program has ended.
            self._run()

    def _run(self) -> None:
        try:
            connection = self._parameters.connect(shuffle=self._shuffle)
        except Exception as exc:  # noqa: BLE001 - handed to the reader, whatever it is
            self._error = exc
        except BaseException as exc:  # noqa: BLE001 - db_conf() calls sys.exit(), say
            # Raised on this thread, it would end nothing but the thread, and be waited for in vain.
            self._error = ConnectionFailedError(
                f"nothing to connect to PostgreSQL with: db_conf() raised {type(exc).__name__}"
            )
            self._error.__cause__ = exc
        else:
            with self._lock:
                self._connection = connection
                abandoned = self._abandoned
            if abandoned:
                connection.close()
            else:
                self._prepare(connection)
        self.done = True
        self._wake()

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        try:
            encoding = encoding_of(connection)
            if encoding.client != "UTF8":  # of which nothing is converted
                connection.execute(f"SET client_encoding TO {encoding.client}".encode())
            if self._statement:
                cursor = connection.execute(self._statement)
                self.row = (cursor.fetchone() if cursor.description else None) or ()
        except psycopg.Error as exc:
            self._error = ConnectionFailedError(
                f"lost the connection to PostgreSQL ({self._parameters!r}) at once: "
                f"{in_one_line(exc)}"
            )
            connection.close()

    @property
    def has_failed(self) -> bool:
        """Whether there is no connection, or its statement failed. To be asked once done."""
        return self._error is not None

    @property
    def is_quiet(self) -> bool:
        """Whether there is a connection, and nothing to be read on it. To be asked once done."""
        return not self.has_failed and self._connection is not None and is_quiet(self._connection)

    def result(self) -> "Session":
        """Return the session, or raise why there is none. To be called once done."""
        if self._error is not None:
            raise self._error
        assert self._connection is not None
        return Session(self._connection)

    def abandon(self) -> None:
        """Have the connection closed as soon as it is there."""
        with self._lock:
            self._abandoned = True
            connection = self._connection
        if connection is not None:
            connection.close()

    def forget_in_child(self) -> None:
        """Let go of a parent's connection in a forked child."""
        if self._connection is not None and not self._connection.closed:
            forget_in_child(self._connection)
