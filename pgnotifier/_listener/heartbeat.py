"""The heartbeat: notifications that the listener sends to itself, on an idle or a new connection.

A connection can be dead without either end noticing: a firewall has forgotten it, or a middlebox
answers keepalives. And a server that accepts LISTEN may still deliver nothing: a pooler in
transaction mode hands the server connection to somebody else after each transaction. Only a
notification that arrives proves that others will. https://www.pgbouncer.org/features.html
"""

import contextlib
import logging
import secrets
from collections.abc import Iterable
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.session import listen_query, notify_query
from pgnotifier._connection.session_settings import setup_query
from pgnotifier._listener.connection_attempts import wait_for_any
from pgnotifier._listener.pause import IDENTITY
from pgnotifier._listener.reader_connection import (
    LISTEN_TIMEOUT,
    SILENT,
    ReaderConnection,
    SilentError,
)
from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier.errors import ListenRefusedError, NotListeningError

logger = logging.getLogger("pgnotifier.link")


POOLED = (
    "LISTEN was accepted, but a notification that another connection sent never arrived: there "
    "is a pooler in transaction or statement mode in between. Connect to PostgreSQL itself, or "
    "to a pool in session mode (PgBouncer: pool_mode=session for this database)"
)


class Heartbeat:
    """Sends heartbeats on the connection in use, and checks a new one; owned by the reader."""

    def __init__(self, connection: ReaderConnection) -> None:
        """Take the reader's connection, which is to be tested."""
        self._connection = connection
        self._warn = LogThrottle(logger)

    def beat_if_due(self) -> None:
        """Make the next round trip if the last look at the socket was after it became due.

        Raises:
            ConnectionLostError: It got no answer in time, or the connection was lost.
        """
        trips = self._connection.round_trips
        if self._connection.read_at < trips.due_at:
            return
        if trips.is_unproven:
            # Notifications arrive, so LISTEN works. Only the moment up to which everything has
            # been read is to be proven, and a query does that at no cost to other listeners.
            self._connection.ask(b"SELECT 1")
            return
        try:
            self.beat()
        except ListenRefusedError as exc:  # the queue is full, for example: LISTEN still works
            extra = about("heartbeat_refused", error=type(exc).__name__)
            self._warn("the server refused the heartbeat: %s", exc, extra=extra)
            self._connection.ask(b"SELECT 1")

    def beat(self) -> int:
        """Send a notification to this listener, and read until it arrives; return the sender's pid.

        Raises:
            ConnectionLostError: It didn't arrive in time, or the connection was lost.
            ListenRefusedError: The server refused NOTIFY.
        """
        token = secrets.token_hex(8)
        query = notify_query(self._connection.router.private, token)
        self._connection.round_trip(query, self._connection.timeout, token)
        return self._connection.router.echoes.pop(token)

    def show_progress(self) -> None:
        """Send a query, so that standbys see when this listener last read everything.

        The next heartbeat stays due when it was, unless notifications have arrived: an answer
        doesn't prove that notifications would arrive.
        """
        trips = self._connection.round_trips
        due_at, was_idle = trips.due_at, not trips.is_unproven
        self._connection.round_trip(b"SELECT 1", self._connection.timeout)
        if was_idle and not trips.is_unproven:
            trips.due_at = due_at

    def listen(self, channels: Iterable[str]) -> None:
        """Listen to channels on a new connection, and check that notifications arrive.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer.
            ListenRefusedError: The server refused LISTEN, as a standby server does.
            NotListeningError: Notifications don't arrive.
        """
        assert self._connection.session is not None
        encoding = self._connection.session.encoding
        query = listen_query({*channels, self._connection.router.private}, encoding=encoding)
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
            server_pid = self.beat()
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
        query = notify_query(self._connection.router.private, token)
        second = Connecting(self._connection.parameters, self._connection.wake, query)
        try:
            wait_for_any(self._connection, [second], self._connection.timeout)
            if not second.done or second.error is not None:
                # A pool in transaction mode would have had a connection for it.
                extra = about("pooler_unknown")
                logger.info("no second connection to check the pooler with", extra=extra)
                return
            deadline = monotonic() + self._connection.timeout
            while token not in self._connection.router.echoes:
                left = deadline - monotonic()
                if left <= 0:
                    raise NotListeningError(f"{POOLED} ({self._connection.parameters!r})")
                self._connection.wait(left)
                self._connection.read()
        finally:
            second.abandon()
            self._connection.router.echoes.clear()
