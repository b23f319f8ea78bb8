"""The handover: from the connection in use to a new one, without missing or doubling anything.

Every session gets all notifications in the same order. So the new one sends a marker; what the old
one gets up to it is handed on, and then what the new one gets after it.
"""

import secrets
from collections.abc import Iterable
from time import monotonic

from psycopg.pq import PGnotify

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import ConnectionLostError, Session, listen_query, notify_query
from pgnotifier._listener.leader import Standby
from pgnotifier._listener.link import LISTEN_TIMEOUT, SILENT, Link, Source, again_if_canceled
from pgnotifier._listener.router import Router
from pgnotifier._runtime.clock import Moment
from pgnotifier.errors import ConnectionFailedError, NotListeningError, PgNotifierError

LOCK_PAUSE = 0.01
"""Seconds between two looks whether an old connection has let go of its lock."""

Marker = tuple[str, str]
"""A channel and a payload."""


class UpTo:
    """The notifications of a connection up to a marker.

    Attributes:
        is_reached: Whether the marker was seen.
    """

    def __init__(self, notifies: Source, marker: Marker) -> None:
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
    """Makes handovers of a link; owned by the reader, as that is."""

    def __init__(self, link: Link, router: Router, parameters: Parameters, timeout: float) -> None:
        """Take what to work with.

        Args:
            link: Whose connection is to be replaced.
            router: Who gets what comes.
            parameters: Where the connections lead, for errors.
            timeout: Seconds that a marker may take.
        """
        self._link = link
        self._router = router
        self._parameters = parameters
        self._timeout = timeout

    def run(self, channels: Iterable[str], standby: Standby | None = None) -> None:
        """Go over to a new connection.

        Args:
            channels: What to listen to from now on.
            standby: Whose lock the new connection is to take over.

        Raises:
            PgNotifierError: There is no new connection, or it can't listen; the old one stays.
            ConnectionLostError: The old one was lost meanwhile, or is one to another server.
        """
        session = self._link.connect()
        marker = (self._router.private, secrets.token_hex(8))
        try:
            wanted = {*channels, self._router.private}
            query = listen_query(wanted, encoding=session.encoding)
            self._ask_beside(session, query, LISTEN_TIMEOUT)
            self._hand_on_up_to(session, marker)
            self._link.close()
            _drop_up_to(session, marker)
            if standby is not None:
                self._take_lock(session, standby)
        except BaseException:
            self._link.forget(session)
            raise
        self._link.session = session
        self._link.hand_on()
        try:
            self._link.check_listening()
        except NotListeningError as exc:
            raise ConnectionLostError(str(exc)) from exc

    def _ask_beside(self, session: Session, query: bytes, timeout: float) -> None:
        """Send a query on the new connection, again if it is canceled; hear on with the old one."""
        again_if_canceled(lambda: self._try_beside(session, query, timeout))

    def _try_beside(self, session: Session, query: bytes, timeout: float) -> None:
        deadline = monotonic() + timeout
        try:
            session.send(query)
        except ConnectionLostError as exc:
            raise self._failed(exc) from exc
        while True:
            self._link.drain_beside()
            try:
                unsent = session.flush()
                session.consume()
                if not unsent and session.answered():
                    return
            except ConnectionLostError as exc:
                raise self._failed(exc) from exc
            if (left := deadline - monotonic()) <= 0:
                raise ConnectionFailedError(
                    f"no answer from PostgreSQL ({self._parameters!r}) for {timeout:g} s"
                )
            self._link.wait_for(session, left, write=unsent)

    def _hand_on_up_to(self, session: Session, marker: Marker) -> None:
        """Have the new connection send a marker, and hand on what the old one gets up to it."""
        assert self._link.session is not None
        up_to = UpTo(self._link.session.notifies, marker)
        with self._link.reading(up_to):
            self._ask_beside(session, notify_query(*marker), self._timeout)
            deadline = monotonic() + self._timeout
            while not up_to.is_reached:
                if self._router.is_full():
                    self._link.pause()
                    deadline = monotonic() + self._timeout
                    continue
                if (left := deadline - monotonic()) <= 0:
                    raise ConnectionLostError("the new connection is one to another server")
                self._link.wait(left)
                received = self._router.received
                self._link.drain()
                if self._router.received > received:
                    deadline = monotonic() + self._timeout  # there is just so much to be read

    def _take_lock(self, session: Session, standby: Standby) -> None:
        """Take the lead, which the old connection's end sets free in a moment."""
        deadline = monotonic() + self._timeout
        while True:
            asked_at = Moment.now()
            try:
                self._ask_beside(session, standby.query, self._timeout)
            except PgNotifierError as exc:  # there is no going back
                raise ConnectionLostError(str(exc)) from exc
            if standby.learn(session.row, asked_at):
                standby.take_over()  # from nobody else
                return
            if monotonic() > deadline:
                raise ConnectionLostError("another listener took the lead")
            self._link.wait_for(session, LOCK_PAUSE, write=False)

    def _failed(self, exc: Exception) -> ConnectionFailedError:
        return ConnectionFailedError(
            f"lost the connection to PostgreSQL ({self._parameters!r}) before it answered "
            f"LISTEN: {exc}"
        )


def _drop_up_to(session: Session, marker: Marker) -> None:
    up_to = UpTo(session.notifies, marker)
    while up_to() is not None:
        pass
    if not up_to.is_reached:  # what a session sends itself comes with the answer
        raise ConnectionLostError(SILENT)
