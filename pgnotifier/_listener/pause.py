"""A pause: nothing is read, as some buffer is full, and PostgreSQL's own queue holds the rest.

What doesn't read doesn't notice either that the connection has ended: its end comes behind all that
is still to be read. So the network is watched, and a second connection asks now and then whether
the server process is still there.
"""

import logging
from collections.abc import Callable
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import ConnectionLostError, Session
from pgnotifier._connection.wakeup import Waiter
from pgnotifier._runtime.log_records import about, duration, percent

logger = logging.getLogger("pgnotifier.pause")

WARN = 60.0
"""Seconds between two warnings that it still lasts."""

Identity = tuple[bytes | None, ...]
"""What tells a server process from any other: its pid, its begin, and that of its server."""

IDENTITY = b"""
SELECT pid::pg_catalog.text, EXTRACT(epoch FROM backend_start)::pg_catalog.text,
  EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text
FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"""
_LOOK = b"""
SELECT
  EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text
    OPERATOR(pg_catalog.=) '%s',
  pg_catalog.pg_notification_queue_usage(),
  EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) %s
    AND (backend_start IS NULL
      OR EXTRACT(epoch FROM backend_start)::pg_catalog.text OPERATOR(pg_catalog.=) '%s'))"""


class Pause:
    """One pause after the other; owned by the reader.

    Attributes:
        since: When the one of now began, by `time.monotonic()`; None if there is none.
    """

    def __init__(self, parameters: Parameters, waiter: Waiter, interval: float) -> None:
        """Begin without one.

        Args:
            parameters: Where to connect.
            waiter: To wait with.
            interval: Seconds between two looks whether the server process is still there.
        """
        self.since: float | None = None
        self._parameters = parameters
        self._waiter = waiter
        self._interval = interval
        self._look_at = self._warn_at = 0.0
        self._looking: Connecting | None = None
        self._usage: float | None = None

    def wait(self, session: Session, is_stopping: Callable[[], bool]) -> None:
        """Wait for a wake-up, or until there is something to be seen to; see to it.

        Raises:
            ConnectionLostError: The session has ended.
        """
        now = monotonic()
        if self.since is None:
            self.since = now
            self._look_at, self._warn_at = now + self._interval, now + WARN
        until = min(self._look_at, self._warn_at)
        if self._waiter.wait_for_end(until - now, session.fd):
            raise ConnectionLostError("it ended while nothing was read")
        if not is_stopping():
            self._look(session)
            self._say_how_long()

    def end(self) -> None:
        """Read again; a no-op unless there is a pause."""
        if self.since is not None:
            lasted = monotonic() - self.since
            logger.info(
                "reading again, after a pause of %s",
                duration(lasted),
                extra=about("pause_ended", seconds=lasted),
            )
            self.forget()

    def forget(self) -> None:
        """End it without a word."""
        self.since = None
        if self._looking is not None:
            self._looking.abandon()
            self._looking = None

    def _look(self, session: Session) -> None:
        if self._looking is not None and self._looking.done:
            looked, self._looking = self._looking, None
            looked.abandon()
            self._judge(session, looked)
        if monotonic() < self._look_at:
            return
        self._look_at = monotonic() + self._interval
        if not session.identity:
            session.probe()
        elif self._looking is None:
            pid, begin, server = (one or b"" for one in session.identity)
            query = _LOOK % (server, pid, begin)
            self._looking = Connecting(self._parameters, self._waiter.wake, query)

    def _judge(self, session: Session, looked: Connecting) -> None:
        if looked.has_failed:
            logger.info(
                "no second connection to see whether the paused one has ended",
                extra=about("pause_unwatched"),
            )
            session.probe()
            return
        is_same_server, self._usage, is_there = looked.row
        if not is_same_server:  # a new one, or one of several
            session.probe()
        elif not is_there:
            raise ConnectionLostError("its server process ended while nothing was read")

    def _say_how_long(self) -> None:
        now = monotonic()
        if self.since is None or now < self._warn_at:
            return
        self._warn_at = now + WARN
        logger.warning(
            "nothing has been read from PostgreSQL for %s, as a buffer is full: its queue of "
            "notifications grows%s, and the session that waits holds back vacuum",
            duration(now - self.since),
            "" if self._usage is None else f" ({percent(self._usage)} full)",
            extra=about("paused", seconds=now - self.since, usage=self._usage),
        )
