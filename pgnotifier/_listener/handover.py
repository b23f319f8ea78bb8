"""The handover: move to a new connection without missing or duplicating a notification.

Every session gets all notifications in the same order. So the new connection sends a marker. What
the old connection gets before the marker is routed, and then what the new one gets after it.
"""

import secrets
from collections.abc import Iterable
from time import monotonic

from psycopg.pq import PGnotify

from pgnotifier._connection.session import ConnectionLostError, Session, listen_query, notify_query
from pgnotifier._listener.connection_attempts import connect
from pgnotifier._listener.leader_lock import Standby
from pgnotifier._listener.new_connection import check
from pgnotifier._listener.reader_connection import (
    LISTEN_TIMEOUT,
    SILENT,
    ReaderConnection,
    Source,
    again_if_canceled,
)
from pgnotifier._runtime.clock import Moment
from pgnotifier.errors import ConnectionFailedError, NotListeningError, PgNotifierError

LOCK_PAUSE = 0.01
"""Seconds between two checks whether an old connection has released its lock."""

Marker = tuple[str, str]
"""A channel and a payload."""


class UpTo:
    """The notifications of a connection up to a marker.

    Attributes:
        is_reached: Whether the marker was seen.
    """

    def __init__(self, notifies: Source, marker: Marker) -> None:
        """Begin before the marker.

        Args:
            notifies: Returns the next notification of the connection, or None.
            marker: Where to end.
        """
        self.is_reached = False
        self._notifies = notifies
        self._marker = tuple(part.encode() for part in marker)

    def __call__(self) -> PGnotify | None:
        """Return the next one, or None."""
        arrived = None if self.is_reached else self._notifies()
        if arrived is not None and (arrived.relname, arrived.extra) == self._marker:
            self.is_reached = True
            return None
        return arrived


def move(
    connection: ReaderConnection, channels: Iterable[str], standby: Standby | None = None
) -> None:
    """Move to a new connection.

    Args:
        connection: The reader's connection, to be replaced.
        channels: What to listen to from now on.
        standby: The lead that the new connection is to take from the old one, if any.

    Raises:
        PgNotifierError: No connection could be made, or it can't listen; the old one stays.
        ConnectionLostError: The old one was lost meanwhile, or leads to another server.
    """
    session = connect(connection)
    marker = (connection.router.private, secrets.token_hex(8))
    try:
        wanted = {*channels, *connection.router.own}
        query = listen_query(wanted, encoding=session.encoding)
        _ask_beside(connection, session, query, LISTEN_TIMEOUT)
        _hand_on_up_to(connection, session, marker)
        connection.close()
        _drop_up_to(session, marker)
        if standby is not None:
            _take_lock(connection, session, standby)
    except BaseException:
        connection.forget(session)
        raise
    connection.session = session
    connection.hand_on()
    try:
        check(connection)
    except NotListeningError as exc:
        raise ConnectionLostError(str(exc)) from exc


def _ask_beside(
    connection: ReaderConnection, session: Session, query: bytes, timeout: float
) -> None:
    """Send a query on the new connection, again if it is canceled; read the old one too."""

    def ask() -> None:
        deadline = monotonic() + timeout
        try:
            session.send(query)
        except ConnectionLostError as exc:
            raise connection.lost_before_listening(exc) from exc
        while True:
            connection.read_if_room()
            try:
                unsent = session.flush()
                session.consume()
                if not unsent and session.answered():
                    return
            except ConnectionLostError as exc:
                raise connection.lost_before_listening(exc) from exc
            if (left := deadline - monotonic()) <= 0:
                raise ConnectionFailedError(
                    f"no answer from PostgreSQL ({connection.parameters!r}) for {timeout:g} s"
                )
            connection.wait(left, session, write=unsent)

    again_if_canceled(ask)


def _hand_on_up_to(connection: ReaderConnection, session: Session, marker: Marker) -> None:
    """Have the new connection send a marker, and route what the old one gets up to it."""
    assert connection.session is not None
    up_to = UpTo(connection.session.notifies, marker)
    with connection.reading(up_to):
        _ask_beside(connection, session, notify_query(*marker), connection.timeout)
        deadline = monotonic() + connection.timeout
        while not up_to.is_reached:
            if connection.router.is_full():
                connection.pause()
                deadline = monotonic() + connection.timeout
                continue
            if (left := deadline - monotonic()) <= 0:
                raise ConnectionLostError("the new connection leads to another server")
            connection.wait(left)
            received = connection.router.received
            connection.read()
            if connection.router.received > received:
                deadline = monotonic() + connection.timeout  # the server is still sending


def _take_lock(connection: ReaderConnection, session: Session, standby: Standby) -> None:
    """Take the lead, which the end of the old connection releases in a moment."""
    deadline = monotonic() + connection.timeout
    while True:
        asked_at = Moment.now()
        try:
            _ask_beside(connection, session, standby.query, connection.timeout)
        except PgNotifierError as exc:  # the old connection is closed by now
            raise ConnectionLostError(str(exc)) from exc
        if standby.learn(session.row, asked_at):
            standby.take_over()  # the leader was this listener, so nothing was missed
            return
        if monotonic() > deadline:
            raise ConnectionLostError("another listener took the lead")
        connection.wait(LOCK_PAUSE, session)


def _drop_up_to(session: Session, marker: Marker) -> None:
    up_to = UpTo(session.notifies, marker)
    while up_to() is not None:
        pass
    if not up_to.is_reached:  # a session gets its own notification before the answer
        raise ConnectionLostError(SILENT)
