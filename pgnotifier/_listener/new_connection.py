"""A new connection: listen to channels on it, and check that notifications arrive.

A server that accepts LISTEN may still deliver nothing: a pooler in transaction mode gives the
server connection to another client after each transaction. https://www.pgbouncer.org/features.html
"""

import contextlib
import logging
import secrets
from collections.abc import Iterable
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.session import listen_query, notify_query
from pgnotifier._connection.session_settings import setup_query
from pgnotifier._inquiry.marks import MARK
from pgnotifier._listener.connection_attempts import wait_for_any
from pgnotifier._listener.heartbeat import beat
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

ADVICE = (
    "a pooler in transaction or statement mode in between. Connect to PostgreSQL itself, or to a "
    "pool in session mode (PgBouncer: pool_mode=session for this database)"
)
POOLED = (
    "LISTEN was accepted, but a notification that another connection sent never arrived: there is "
    f"{ADVICE}"
)


def listen(connection: ReaderConnection, channels: Iterable[str]) -> None:
    """Listen to channels on a new connection, and check that notifications arrive.

    Raises:
        ConnectionLostError: The connection was lost, or there was no answer.
        ListenRefusedError: The server refused LISTEN, as a standby server does.
        NotListeningError: Notifications don't arrive.
    """
    assert connection.session is not None
    encoding = connection.session.encoding
    query = listen_query({*channels, *connection.router.own}, encoding=encoding)
    connection.round_trip(query, LISTEN_TIMEOUT)
    check(connection)


def mark(connection: ReaderConnection) -> None:
    """Mark the session as one that answers questions, if it does."""
    if connection.router.on_question is None or connection.session is None:
        return
    with contextlib.suppress(ListenRefusedError):  # this role may not
        pid, *_ = connection.ask(MARK)
        connection.session.server_pid = int(pid or 0)


def check(connection: ReaderConnection) -> None:
    """Check that notifications of this listener, and those of others, arrive.

    Raises:
        ConnectionLostError: The connection was lost, or there was no answer.
        NotListeningError: Notifications don't arrive.
    """
    session = connection.session
    assert session is not None
    try:
        server_pid = beat(connection)
    except SilentError as exc:
        # As happens if the pooler has other clients, which are given the session in between.
        text = f"{SILENT}: there may be {ADVICE} ({connection.parameters!r})"
        raise NotListeningError(text) from exc
    # Poolers make up the pid that they report to their clients.
    if server_pid != session.backend_pid:
        _check_pooler(connection)
        session.is_pooled = True
        connection.ask(setup_query(server_pid).encode())
    with contextlib.suppress(ListenRefusedError):  # this role may not look
        session.identity = connection.ask(IDENTITY)
    mark(connection)
    with contextlib.suppress(ListenRefusedError):  # it works without it
        connection.read_more_at_a_time()


def _check_pooler(connection: ReaderConnection) -> None:
    """Check that a notification from another connection arrives on this one.

    Behind a pooler, a notification to this listener proves nothing: both ends may have been
    given the same server connection.
    """
    token = secrets.token_hex(8)
    query = notify_query(connection.router.private, token)
    second = Connecting(connection.parameters, connection.wake, query)
    try:
        wait_for_any(connection, [second], connection.timeout)
        if not second.done or second.error is not None:
            # A pool in transaction mode would have had a connection for it.
            extra = about("pooler_unknown")
            logger.info("no second connection to check the pooler with", extra=extra)
            return
        deadline = monotonic() + connection.timeout
        while token not in connection.router.echoes:
            left = deadline - monotonic()
            if left <= 0:
                raise NotListeningError(f"{POOLED} ({connection.parameters!r})")
            connection.wait(left)
            connection.read()
    finally:
        second.abandon()
        connection.router.echoes.clear()
