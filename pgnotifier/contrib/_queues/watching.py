"""Notice that a transaction ends within a block of an outbox, before its messages are inserted."""

from contextlib import ExitStack
from typing import Any

from pgnotifier._log import sessions

_IDLE = 0
"""The same for psycopg and psycopg2:
https://www.psycopg.org/psycopg3/docs/api/pq.html#psycopg.pq.TransactionStatus"""


class BlockWatch:
    """Watches the transactions of a connection while a block is executed.

    SQLAlchemy reports each end. A driver doesn't, so its connection is looked at now and then; it
    isn't noticed if a transaction has both begun and ended in between.
    """

    def __init__(self, connection: Any) -> None:
        """Begin to watch."""
        self._has_ended = self._was_open = False
        self._listeners = ExitStack()
        self._is_alchemy = sessions.is_alchemy(connection) or sessions.is_async_alchemy(connection)
        self._connection = sessions.unscoped(connection) if self._is_alchemy else connection
        if self._is_alchemy:
            self._listen()
        self.look()

    def look(self) -> None:
        """Look at the connection, and remember whether a transaction is open."""
        if not (self._is_alchemy or self._was_open):
            self._was_open = _is_open(self._connection)

    def stop(self) -> None:
        """Stop watching."""
        self._listeners.close()

    def has_ended(self) -> bool:
        """Return whether a transaction has ended, and no other one is open now.

        What is inserted now then begins a transaction, which somebody has to commit.
        """
        if self._is_alchemy:
            is_over = self._has_ended and not self._connection.in_transaction()
            return is_over and not self._commits_each()
        return self._was_open and not _is_open(self._connection) and not _commits(self._connection)

    def _listen(self) -> None:
        from sqlalchemy import event

        target = self._connection
        for name in ("sync_session", "sync_connection"):
            target = getattr(target, name, None) or target
        if sessions.is_async_alchemy(target):  # a connection that isn't open yet
            return
        is_session = hasattr(target, "get_bind")
        note = self._note_session if is_session else self._note
        for name in ("after_transaction_end",) if is_session else ("commit", "rollback"):
            event.listen(target, name, note)
            self._listeners.callback(event.remove, target, name, note)

    def _commits_each(self) -> bool:
        """Return whether an engine commits each statement; False for asyncio, which has to wait."""
        if sessions.is_async_alchemy(self._connection):
            return False
        return sessions.find_session(self._connection).commits_each

    def _note_session(self, _session: Any, transaction: Any) -> None:
        self._has_ended |= transaction.parent is None

    def _note(self, _connection: Any) -> None:
        self._has_ended = True


def _driver_of(connection: Any) -> Any:
    """Return the driver's connection, given a cursor or a connection of Django."""
    return getattr(connection, "connection", connection)


def _is_open(connection: Any) -> bool:
    """Return whether a transaction is open, other than those that each statement has."""
    driver = _driver_of(connection)
    status = getattr(getattr(driver, "info", None), "transaction_status", _IDLE)
    return bool(status != _IDLE) and not _commits(connection)


def _commits(connection: Any) -> bool:
    """Return whether each statement is committed, unless somebody begins a transaction."""
    return bool(getattr(_driver_of(connection), "autocommit", True))
