"""Listen on a new connection, and check that notifications arrive on it.

A server that accepts LISTEN may still deliver nothing: a pooler in transaction mode hands the
server connection to somebody else after each transaction.
https://www.pgbouncer.org/features.html
"""

import contextlib
import logging
import secrets
from collections.abc import Iterable
from time import monotonic

from pgnotifier._connection.session import listen_query, notify_query
from pgnotifier._connection.session_settings import setup_query
from pgnotifier._listener.connection_attempts import ConnectionAttempts
from pgnotifier._listener.heartbeat import Heartbeat
from pgnotifier._listener.pause import IDENTITY
from pgnotifier._listener.reader_connection import (
    LISTEN_TIMEOUT,
    SILENT,
    ReaderConnection,
    SilentError,
)
from pgnotifier._runtime.log_records import about
from pgnotifier.errors import ListenRefusedError, NotListeningError

logger = logging.getLogger("pgnotifier.link")

POOLED = (
    "LISTEN was accepted, but a notification that another connection sent never arrived: there "
    "is a pooler in transaction or statement mode in between. Connect to PostgreSQL itself, or "
    "to a pool in session mode (PgBouncer: pool_mode=session for this database)"
)


class ListenCheck:
    """Listens on the reader's connection, and checks that it works; owned by the reader."""

    def __init__(
        self, connection: ReaderConnection, attempts: ConnectionAttempts, heartbeat: Heartbeat
    ) -> None:
        """Take what is to be checked.

        Args:
            connection: The reader's connection.
            attempts: Makes the second connection, which checks for a pooler.
            heartbeat: Sends a notification to this listener.
        """
        self._connection = connection
        self._router = connection.router
        self._attempts = attempts
        self._heartbeat = heartbeat

    def listen(self, channels: Iterable[str]) -> None:
        """Listen to channels on a new connection, and check that notifications arrive.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer.
            ListenRefusedError: The server refused LISTEN, as a standby server does.
            NotListeningError: Notifications don't arrive.
        """
        assert self._connection.session is not None
        encoding = self._connection.session.encoding
        query = listen_query({*channels, self._router.private}, encoding=encoding)
        self._connection.round_trip(query, LISTEN_TIMEOUT)
        self.check()

    def check(self) -> None:
        """Check that notifications of this listener, and those of others, arrive.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer.
            NotListeningError: Notifications don't arrive.
        """
        session = self._connection.session
        assert session is not None
        try:
            server_pid = self._heartbeat.beat()
        except SilentError as exc:
            raise NotListeningError(f"{SILENT} ({self._connection.parameters!r})") from exc
        # Poolers make up the pid that they report to their clients.
        if server_pid != session.backend_pid:
            self._check_pooler()
            session.is_pooled = True
            self._connection.ask(setup_query(server_pid).encode())
        with contextlib.suppress(ListenRefusedError):  # this role may not look
            session.identity = self._connection.ask(IDENTITY)

    def _check_pooler(self) -> None:
        """Check that a notification from another connection arrives on this one.

        Behind a pooler, a notification to this listener proves nothing: both ends may have been
        given the same server connection.
        """
        token = secrets.token_hex(8)
        second = self._attempts.begin(notify_query(self._router.private, token))
        try:
            self._attempts.wait_for_any([second], self._connection.timeout)
            if not second.done or second.has_failed:
                # A pool in transaction mode would have had a connection for it.
                extra = about("pooler_unknown")
                logger.info("no second connection to check the pooler with", extra=extra)
                return
            self._wait_for(token)
        finally:
            second.abandon()
            self._router.echoes.clear()

    def _wait_for(self, token: str) -> None:
        deadline = monotonic() + self._connection.timeout
        while token not in self._router.echoes:
            left = deadline - monotonic()
            if left <= 0:
                raise NotListeningError(f"{POOLED} ({self._connection.parameters!r})")
            self._connection.wait(left)
            self._connection.read()
