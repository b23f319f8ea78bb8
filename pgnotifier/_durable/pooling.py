"""Refuse poolers that don't keep a session for each client, because a source needs one.

It holds subscriptions by locks of its session, and listens to the bell. Behind a pooler in
transaction mode, two replicas may share a session and its locks, and both would deliver.
https://www.pgbouncer.org/features.html
"""

import logging
import secrets
from collections.abc import Callable
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session_settings import setup_query
from pgnotifier._connection.wakeup import Waiter
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.translating import POOLED
from pgnotifier._runtime.log_records import about
from pgnotifier.errors import NotListeningError

logger = logging.getLogger("pgnotifier.durable")

CONNECT_SHARE, ECHO_SHARE = 1 / 6, 1 / 3
"""The shares of the source's patience to wait for a second connection, which a pool in session mode
may not have, and then for a notification from it."""
_ECHO = "SELECT pg_catalog.pg_backend_pid() FROM pg_catalog.pg_notify('{}', '')"


def check_pooler(
    session: LogSession,
    parameters: Parameters,
    waiter: Waiter,
    patience: float,
    is_stopping: Callable[[], bool],
) -> None:
    """Check that a new session belongs to this client alone; set it up if it is a pooler's.

    Args:
        session: The session, before it is prepared.
        parameters: Where it is connected to.
        waiter: Wakes the calling thread, if it has to stop.
        patience: The seconds within which the server has to answer a query.
        is_stopping: Returns whether the thread has to stop.

    Raises:
        NotListeningError: There is a pooler in transaction or statement mode in between.
        psycopg.Error: The connection is lost.
    """
    # Poolers make up the pid that they report to their clients.
    if session.server_pid == session.connection.info.backend_pid:
        return
    channel = f"pgnotifier_{secrets.token_hex(8)}"
    session.connection.execute(f"LISTEN {channel}".encode())
    second = Connecting(parameters, waiter.wake, _ECHO.format(channel).encode())

    def has_arrived() -> bool:
        pgconn = session.connection.pgconn
        pgconn.consume_input()
        arrived = iter(pgconn.notifies, None)
        return any(one.relname == channel.encode() for one in arrived)

    def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
        deadline = monotonic() + seconds
        while not (condition() or is_stopping()):
            left = deadline - monotonic()
            if left <= 0:
                return False
            waiter.wait(left, session.connection.fileno())
        return True

    try:
        if not wait_for(lambda: second.done, patience * CONNECT_SHARE) or second.error is not None:
            # A pool in transaction mode would have had a connection for it.
            logger.info(
                "no second connection to check the pooler with", extra=about("pooler_unknown")
            )
        elif second.row == (session.server_pid,) or not wait_for(
            has_arrived, patience * ECHO_SHARE
        ):
            raise NotListeningError(f"{POOLED} ({parameters!r})")
    finally:
        second.abandon()
    session.connection.execute(f"UNLISTEN {channel}".encode())
    session.connection.execute(setup_query(session.server_pid).encode())
