"""Queue usage: how full PostgreSQL's queue of notifications is.

All databases share one queue. It holds what some listening session hasn't taken yet, up to 8 GB.
Once it is full, every COMMIT with a NOTIFY in it fails. It fills up if a session listens and stays
in a transaction, or doesn't read.
https://www.postgresql.org/docs/current/sql-notify.html
"""

import logging
from collections.abc import Callable, Sequence
from time import monotonic

from pgnotifier._runtime.log_records import about, percent
from pgnotifier.errors import ListenRefusedError

logger = logging.getLogger("pgnotifier.backlog")

INTERVAL = 60.0
"""Seconds between two queries."""
LIMIT = 0.1
"""The fraction at which a warning is logged; it is logged again whenever the usage has doubled."""

Row = Sequence[bytes | None]

USAGE = b"SELECT pg_catalog.pg_notification_queue_usage()"
"""Returns the fraction that is in use, and removes what every listening session has taken."""
OLDEST = b"""
SELECT pid, usename, application_name, state, datname, EXTRACT(epoch FROM
  pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) xact_start)::pg_catalog.int4
FROM pg_catalog.pg_stat_activity
WHERE xact_start IS NOT NULL AND pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
AND backend_type OPERATOR(pg_catalog.=) 'client backend'
ORDER BY xact_start LIMIT 1"""


class QueueUsage:
    """Asks for the usage once a minute; owned by the reader.

    Attributes:
        usage: The fraction of the queue that was in use; None before the first query.
    """

    def __init__(self, ask: Callable[[bytes], Row]) -> None:
        """Begin with a query that is due.

        Args:
            ask: Sends a query and returns its first row, empty if it has none.
        """
        self.usage: float | None = None
        self._ask = ask
        self._due_at = 0.0
        self._warned = 0.0

    def look(self) -> None:
        """Ask if it is time to, and warn if the queue fills up."""
        if monotonic() < self._due_at:
            return
        self._due_at = monotonic() + INTERVAL
        try:
            self._look()
        except ListenRefusedError as exc:  # this role may not, for example
            logger.info(
                "can't look at PostgreSQL's notification queue: %s",
                exc,
                extra=about("queue_unknown", error=type(exc).__name__),
            )

    def _look(self) -> None:
        (usage,) = self._ask(USAGE)
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
        row = self._ask(OLDEST)
        if not row:
            return "No open transaction is visible; perhaps a listener doesn't read"
        pid, user, name, state, database, seconds = (
            "?" if value is None else value.decode("utf-8", "replace") for value in row
        )
        return (
            f"The oldest open transaction is that of pid {pid} (user {user}, application "
            f"{name!r}, database {database}), {state} for {seconds} s"
        )
