"""A pause: a buffer is full, so nothing is read, and PostgreSQL's own queue holds the rest.

A reader that doesn't read doesn't notice that the connection has ended: the end comes behind
everything that is still to be read. So the network is watched, and a second connection asks from
time to time whether the server process is still there.
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
"""Seconds between two warnings about a pause that lasts."""
LONG = 1.0
"""Seconds after which a pause counts as a long one."""

OnPause = Callable[[bool], object]
"""Called with True once a pause has lasted for `LONG` seconds, and with False when it ends."""

# Of a server process: its pid, its start time, and that of its server.
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
    """The pauses of one reader, one after the other; owned by the reader.

    Attributes:
        since: When the current pause began, by `time.monotonic()`; None if there is none.
    """

    def __init__(
        self, parameters: Parameters, waiter: Waiter, interval: float, on_pause: OnPause | None
    ) -> None:
        """Begin without a pause.

        Args:
            parameters: Where to connect.
            waiter: Waits for the network and for wake-ups.
            interval: Seconds between two checks that the server process is still there.
            on_pause: Is called when a long pause begins or ends.
        """
        self.since: float | None = None
        self._parameters = parameters
        self._waiter = waiter
        self._interval = interval
        self._on_pause = on_pause
        self._is_long = False
        self._look_at = self._warn_at = 0.0
        self._looking: Connecting | None = None
        self._usage: float | None = None

    def wait(self, session: Session, is_stopping: Callable[[], bool]) -> None:
        """Wait for a wake-up or the next check of the server process; make the check that is due.

        Raises:
            ConnectionLostError: The session has ended.
        """
        now = monotonic()
        if self.since is None:
            self.since = now
            self._look_at, self._warn_at = now + self._interval, now + WARN
        until = min(self._look_at, self._warn_at)
        if not self._is_long:
            until = min(until, self.since + LONG)
        if self._waiter.wait_for_end(until - now, session.fd):
            raise ConnectionLostError("the connection ended while nothing was read")
        if not is_stopping():
            if not self._is_long and monotonic() >= self.since + LONG:
                self._note(is_long=True)
            self._look(session)
            self._say_how_long()

    def end(self) -> None:
        """End the pause, if there is one, because the reader reads again."""
        if self.since is not None:
            lasted = monotonic() - self.since
            logger.info(
                "reading again, after a pause of %s",
                duration(lasted),
                extra=about("pause_ended", seconds=lasted),
            )
            self.forget()

    def forget(self) -> None:
        """End the pause without a log record."""
        self.since = None
        if self._is_long:
            self._note(is_long=False)
        if self._looking is not None:
            self._looking.abandon()
            self._looking = None

    def _note(self, *, is_long: bool) -> None:
        self._is_long = is_long
        if self._on_pause is not None:
            self._on_pause(is_long)

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
        if looked.error is not None:
            logger.info(
                "no second connection to check whether the paused one has ended",
                extra=about("pause_unwatched"),
            )
            session.probe()
            return
        is_same_server, self._usage, is_there = looked.row
        if not is_same_server:  # it was restarted, or a pooler leads to several
            session.probe()
        elif not is_there:
            raise ConnectionLostError("its server process ended while nothing was read")

    def _say_how_long(self) -> None:
        now = monotonic()
        if self.since is None or now < self._warn_at:
            return
        self._warn_at = now + WARN
        logger.warning(
            "nothing has been read from PostgreSQL for %s, because a buffer is full: its queue of "
            "notifications grows%s, and the waiting session holds back vacuum",
            duration(now - self.since),
            "" if self._usage is None else f" ({percent(self._usage)} full)",
            extra=about("paused", seconds=now - self.since, usage=self._usage),
        )
