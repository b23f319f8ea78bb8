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
from pgnotifier._listener.heartbeat import Heartbeat
from pgnotifier._listener.leader_lock import Standby
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


class Handover:
    """Replaces the reader's connection; owned by the reader."""

    def __init__(self, connection: ReaderConnection, heartbeat: Heartbeat) -> None:
        """Take what to work with.

        Args:
            connection: The reader's connection, to be replaced.
            heartbeat: Checks that the new connection receives notifications.
        """
        self._connection = connection
        self._heartbeat = heartbeat
        self._router = connection.router
        self._timeout = connection.timeout

    def run(self, channels: Iterable[str], standby: Standby | None = None) -> None:
        """Move to a new connection.

        Args:
            channels: What to listen to from now on.
            standby: The lead that the new connection is to take from the old one, if any.

        Raises:
            PgNotifierError: No connection could be made, or it can't listen; the old one stays.
            ConnectionLostError: The old one was lost meanwhile, or leads to another server.
        """
        session = connect(self._connection)
        marker = (self._router.private, secrets.token_hex(8))
        try:
            wanted = {*channels, self._router.private}
            query = listen_query(wanted, encoding=session.encoding)
            self._ask_beside(session, query, LISTEN_TIMEOUT)
            self._hand_on_up_to(session, marker)
            self._connection.close()
            _drop_up_to(session, marker)
            if standby is not None:
                self._take_lock(session, standby)
        except BaseException:
            self._connection.forget(session)
            raise
        self._connection.session = session
        self._connection.hand_on()
        try:
            self._heartbeat.check()
        except NotListeningError as exc:
            raise ConnectionLostError(str(exc)) from exc

    def _ask_beside(self, session: Session, query: bytes, timeout: float) -> None:
        """Send a query on the new connection, again if it is canceled; read the old one too."""
        again_if_canceled(lambda: self._try_beside(session, query, timeout))

    def _try_beside(self, session: Session, query: bytes, timeout: float) -> None:
        deadline = monotonic() + timeout
        try:
            session.send(query)
        except ConnectionLostError as exc:
            raise self._connection.lost_before_listening(exc) from exc
        while True:
            self._connection.read_if_room()
            try:
                unsent = session.flush()
                session.consume()
                if not unsent and session.answered():
                    return
            except ConnectionLostError as exc:
                raise self._connection.lost_before_listening(exc) from exc
            if (left := deadline - monotonic()) <= 0:
                raise ConnectionFailedError(
                    f"no answer from PostgreSQL ({self._connection.parameters!r}) for {timeout:g} s"
                )
            self._connection.wait(left, session, write=unsent)

    def _hand_on_up_to(self, session: Session, marker: Marker) -> None:
        """Have the new connection send a marker, and route what the old one gets up to it."""
        assert self._connection.session is not None
        up_to = UpTo(self._connection.session.notifies, marker)
        with self._connection.reading(up_to):
            self._ask_beside(session, notify_query(*marker), self._timeout)
            deadline = monotonic() + self._timeout
            while not up_to.is_reached:
                if self._router.is_full():
                    self._connection.pause()
                    deadline = monotonic() + self._timeout
                    continue
                if (left := deadline - monotonic()) <= 0:
                    raise ConnectionLostError("the new connection leads to another server")
                self._connection.wait(left)
                received = self._router.received
                self._connection.read()
                if self._router.received > received:
                    deadline = monotonic() + self._timeout  # the server is still sending

    def _take_lock(self, session: Session, standby: Standby) -> None:
        """Take the lead, which the end of the old connection releases in a moment."""
        deadline = monotonic() + self._timeout
        while True:
            asked_at = Moment.now()
            try:
                self._ask_beside(session, standby.query, self._timeout)
            except PgNotifierError as exc:  # the old connection is closed by now
                raise ConnectionLostError(str(exc)) from exc
            if standby.learn(session.row, asked_at):
                standby.take_over()  # the leader was this listener, so nothing was missed
                return
            if monotonic() > deadline:
                raise ConnectionLostError("another listener took the lead")
            self._connection.wait(LOCK_PAUSE, session)


def _drop_up_to(session: Session, marker: Marker) -> None:
    up_to = UpTo(session.notifies, marker)
    while up_to() is not None:
        pass
    if not up_to.is_reached:  # a session gets its own notification before the answer
        raise ConnectionLostError(SILENT)
