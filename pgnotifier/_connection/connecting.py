"""Connect to PostgreSQL on a separate thread, so that the reader thread never blocks."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import Session, encoding_of, is_quiet
from pgnotifier.errors import ConnectionFailedError, in_one_line

_here = threading.local()
"""Per thread: the `parameters` that it is connecting with. `db_conf` is called on that thread."""


def is_connecting_here(parameters: Parameters) -> bool:
    """Return whether the calling code runs in the `db_conf` callable of a connection attempt."""
    return getattr(_here, "parameters", None) is parameters


class Connecting:
    """A connection attempt that runs on its own thread.

    Name resolution and a host that doesn't answer can block for a long time. Meanwhile the
    reader still reacts to `stop()`, and can abandon the attempt.

    Attributes:
        is_asking: Whether it waits for a `db_conf` callable to return connection parameters.
        done: Whether it has ended; the rest is valid from then on.
        error: Why connecting or the statement failed, if it did.
        row: The first row of the statement's answer.
    """

    def __init__(
        self,
        parameters: Parameters,
        wake: Callable[[], None],
        statement: bytes = b"",
        *,
        shuffle: bool = False,
    ) -> None:
        """Start the attempt.

        Args:
            parameters: Where to connect to.
            wake: Called when the attempt has succeeded or failed.
            statement: SQL to execute on the new connection as the last part of the attempt. Its
                first row is kept.
            shuffle: Whether to try hosts in a random order.
        """
        self._parameters = parameters
        self._wake = wake
        self._statement = statement
        self._shuffle = shuffle
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self.error: Exception | None = None
        self._abandoned = False
        self.is_asking = True
        self.done = False
        self.row: tuple[Any, ...] = ()
        try:
            threading.Thread(target=self._run, name="pgnotifier-connect", daemon=True).start()
        except RuntimeError:
            # No thread can be started: the system's limit is reached, or the main program has
            # ended (Python 3.12.0 and 3.12.1).
            self._run()

    def _run(self) -> None:
        _here.parameters = self._parameters
        try:
            self._connect()
        finally:
            _here.parameters = None  # without a thread of its own, this is the caller's
        self.done = True
        self._wake()

    def _connect(self) -> None:
        try:
            parameters = self._parameters.resolve()
            self.is_asking = False
            connection = parameters.connect(shuffle=self._shuffle)
        except Exception as exc:  # noqa: BLE001 - handed to the reader, whatever it is
            self.error = exc
        except BaseException as exc:  # noqa: BLE001 - db_conf() calls sys.exit(), say
            # Raised here, it would only end this thread, and the reader would wait forever.
            self.error = ConnectionFailedError(
                f"nothing to connect to PostgreSQL with: db_conf() raised {type(exc).__name__}"
            )
            self.error.__cause__ = exc
        else:
            with self._lock:
                self._connection = connection
                abandoned = self._abandoned
            if abandoned:
                connection.close()
            else:
                self._prepare(connection)

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        try:
            encoding = encoding_of(connection)
            if encoding.client != "UTF8":  # then the server converts nothing
                connection.execute(f"SET client_encoding TO {encoding.client}".encode())
            if self._statement:
                cursor = connection.execute(self._statement)
                self.row = (cursor.fetchone() if cursor.description else None) or ()
        except psycopg.Error as exc:
            self.error = ConnectionFailedError(
                f"lost the new connection to PostgreSQL ({self._parameters!r}) during its set-up: "
                f"{in_one_line(exc)}"
            )
            connection.close()

    @property
    def is_quiet(self) -> bool:
        """Whether it has connected, and there is nothing to read. Valid once `done`."""
        return self.error is None and self._connection is not None and is_quiet(self._connection)

    def result(self) -> "Session":
        """Return the session, or raise the reason why connecting failed. Valid once `done`."""
        if self.error is not None:
            raise self.error
        assert self._connection is not None
        return Session(self._connection)

    def abandon(self) -> None:
        """Give up the attempt: the connection is closed as soon as it is made."""
        with self._lock:
            self._abandoned = True
            connection = self._connection
        if connection is not None:
            connection.close()
