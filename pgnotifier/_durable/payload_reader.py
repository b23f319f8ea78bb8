"""Read large payloads from the log, for notifications that only contain a reference to them."""

import contextlib
import threading
from time import monotonic
from typing import Any

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import is_quiet
from pgnotifier._durable.patience import ImpatientConnection
from pgnotifier._durable.translating import translate
from pgnotifier._log.references import Reference, read_payload
from pgnotifier._runtime.process import renew_in_children
from pgnotifier.errors import PgNotifierError

PAUSE = 5.0
"""Seconds before another attempt to connect after one has failed, or a connection was lost: each
may take long, and many references may be waiting."""


class PayloadReader:
    """Reads payloads on its own connection, made for the first one. Thread-safe."""

    def __init__(self, parameters: Parameters, patience: float) -> None:
        """Keep the settings. Nothing is connected.

        Args:
            parameters: Where to connect.
            patience: The seconds within which the server has to answer.
        """
        self._parameters = parameters
        self._patience = patience
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Start without a connection, as in a forked child: the parent keeps its own."""
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._is_closing = False
        self._refused: tuple[float, PgNotifierError] | None = None  # until when, and why

    def read(self, channel: str, reference: Reference) -> bytes | None:
        """Return the payload of an entry, in UTF-8; None if the log no longer has it.

        Args:
            channel: The channel that the entry has to belong to.
            reference: The entry.

        Raises:
            PgNotifierError: It can't be read: there is no connection, no log, or no right to.
        """
        with self._lock:
            self._is_closing = False
            try:
                return self._read(channel, reference)
            finally:
                if self._is_closing:
                    self._close()

    def close(self) -> None:
        """Close the connection; a later `read` makes a new one.

        If another thread is inside `read`, it closes the connection when it is done.
        """
        self._is_closing = True
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _read(self, channel: str, reference: Reference) -> bytes | None:
        connection = self._connected()
        try:
            return read_payload(connection, channel, reference)
        except psycopg.Error as exc:
            error = translate(exc, self._parameters)
            if connection.closed:
                self._close()
                self._refuse(error)
            raise error from exc

    def _connected(self) -> psycopg.Connection[Any]:
        known = self._connection
        if known is not None and (known.closed or not is_quiet(known)):
            self._close()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        if self._refused is not None and monotonic() < self._refused[0]:
            raise self._refused[1].with_traceback(None)
        try:
            connection = self._parameters.connect(kind=ImpatientConnection)
        except PgNotifierError as exc:
            self._refuse(exc)
            raise
        if isinstance(connection, ImpatientConnection):
            connection.patience = self._patience
        return connection

    def _refuse(self, why: PgNotifierError) -> None:
        self._refused = monotonic() + PAUSE, why

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
