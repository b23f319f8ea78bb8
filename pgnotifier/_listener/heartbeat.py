"""The heartbeat: round trips that show that the connection is still there, and still receives.

A connection can be dead without either end noticing: a firewall has forgotten it, or a middlebox
answers keepalives. On an idle one, the listener sends a notification to itself: only one that
arrives proves that others will.
"""

import contextlib
import logging
import secrets

from pgnotifier._connection.session import QueryCanceledError, notify_query
from pgnotifier._listener.queue_usage import USAGE
from pgnotifier._listener.reader_connection import ReaderConnection
from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier.errors import ListenRefusedError

logger = logging.getLogger("pgnotifier.link")


class Heartbeat:
    """Makes round trips on the connection in use when they are due; owned by the reader."""

    def __init__(self, connection: ReaderConnection) -> None:
        """Take the reader's connection."""
        self._connection = connection
        self._warn = LogThrottle(logger)

    def beat_if_due(self) -> None:
        """Make the next round trip if it was already due when the socket was last read.

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
            beat(self._connection)
        except ListenRefusedError as exc:  # the queue is full, for example: LISTEN still works
            extra = about("heartbeat_refused", error=type(exc).__name__)
            self._warn("the server refused the heartbeat: %s", exc, extra=extra)
            self._connection.ask(b"SELECT 1")

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


def beat(connection: ReaderConnection) -> int:
    """Send a notification to this listener, and read until it arrives; return the sender's pid.

    If the server refuses that, try once more. PostgreSQL's queue stays full after the session that
    didn't read has ended: each NOTIFY fails until somebody asks for the queue's usage.

    Raises:
        ConnectionLostError: It didn't arrive in time, or the connection was lost.
        ListenRefusedError: The server refused NOTIFY.
    """
    try:
        return _beat_once(connection)
    except QueryCanceledError:  # again and again
        raise
    except ListenRefusedError:
        with contextlib.suppress(ListenRefusedError):  # this role may not ask
            connection.ask(USAGE)
        return _beat_once(connection)


def _beat_once(connection: ReaderConnection) -> int:
    token = secrets.token_hex(8)
    query = notify_query(connection.router.private, token)
    connection.round_trip(query, connection.timeout, token)
    return connection.router.echoes.pop(token)
