"""The backlog: how full PostgreSQL's queue of notifications is.

There is one for all databases. It holds what some session that listens hasn't taken yet, up to
8 GB; once it is full, every COMMIT with a NOTIFY in it fails. What fills it is a session that
listens and stays in a transaction, or doesn't read.
https://www.postgresql.org/docs/current/sql-notify.html
"""

import logging
from collections.abc import Callable, Sequence
from time import monotonic

from pgnotifier._runtime.log_records import about, percent
from pgnotifier.errors import ListenRefusedError

logger = logging.getLogger("pgnotifier.backlog")

INTERVAL = 60.0
"""Seconds between two looks."""
LIMIT = 0.1
"""The fraction from which on there is a warning, and again whenever it has doubled."""

Row = Sequence[bytes | None]

_USAGE = b"SELECT pg_catalog.pg_notification_queue_usage()"
_OLDEST = b"""
SELECT pid, usename, application_name, state, datname, EXTRACT(epoch FROM
  pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) xact_start)::pg_catalog.int4
FROM pg_catalog.pg_stat_activity
WHERE xact_start IS NOT NULL AND pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
AND backend_type OPERATOR(pg_catalog.=) 'client backend'
ORDER BY xact_start LIMIT 1"""


class QueueUsage:
    """Looks at the queue once a minute; owned by the reader.

    Attributes:
        usage: The fraction of the queue that was in use, None before the first look.
    """

    def __init__(self, ask: Callable[[bytes], Row]) -> None:
        """Take what asks a query and returns its first row, empty if there is none."""
        self.usage: float | None = None
        self._ask = ask
        self._due_at = 0.0
        self._warned = 0.0

    def look(self) -> None:
        """Look, if it is time to, and warn."""
        if monotonic() < self._due_at:
            return
        self._due_at = monotonic() + INTERVAL
        try:
            self._look()
        except ListenRefusedError as exc:  # no right to, say
            logger.info(
                "can't look at PostgreSQL's notification queue: %s",
                exc,
                extra=about("queue_unknown", error=type(exc).__name__),
            )

    def _look(self) -> None:
        (usage,) = self._ask(_USAGE)
        self.usage = float(usage or 0)
        if self.usage < LIMIT:
            self._warned = 0.0
        elif self.usage >= 2 * self._warned:
            self._warned = self.usage
            logger.warning(
                "PostgreSQL's notification queue is %s full; once it is, NOTIFY fails. %s",
                percent(self.usage),
                self._find_culprit(),
                extra=about("queue_filling", usage=self.usage),
            )

    def _find_culprit(self) -> str:
        row = self._ask(_OLDEST)
        if not row:
            return "No open transaction is to be seen; perhaps a listener doesn't read"
        pid, user, name, state, database, seconds = (
            "?" if value is None else value.decode("utf-8", "replace") for value in row
        )
        return (
            f"The oldest open transaction is that of pid {pid} (user {user}, application "
            f"{name!r}, database {database}), {state} for {seconds} s"
        )
