"""What a source does now and then besides reading the log: reclaim its space, and get figures."""

import logging
from collections.abc import Collection
from time import monotonic

from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.progress import Progress
from pgnotifier._log.done import RECLAIM_DONE
from pgnotifier._log.overview import log_state
from pgnotifier._log.reclaim import Reclaimer
from pgnotifier._runtime.log_records import about, count
from pgnotifier.status import LogState  # noqa: TC001

logger = logging.getLogger("pgnotifier.durable")

FIGURES_PAUSE = 5.0
"""Seconds between two queries for the figures of subscriptions in `status()`."""
LOG_PAUSE = 30.0
"""The same for the figures of the log."""
READER_PAUSE = 60.0
"""Seconds between two notes in the database of who reads, and two checks for subscriptions that
nobody reads. The space of the ids of `once` is reclaimed then, too."""
MEGABYTE = 1024 * 1024
_NOTE_READER = "SELECT pgnotifier.note_reader(%s, %s::pg_catalog.float8[])"
_NOTE_KEYS = "SELECT pgnotifier.note_keys(%s, %s::pg_catalog.bytea[], %s::pg_catalog.float8[])"


class Upkeep:
    """Does what is due. The source's thread owns it.

    Attributes:
        log_state: How large the log is, and what holds it back; None before the first look.
    """

    def __init__(self) -> None:
        """Begin with everything due."""
        self.log_state: LogState | None = None
        self._reclaimer = Reclaimer()
        self._figures_at = self._log_at = self._reader_at = 0.0

    def look(self, session: LogSession, progress: Collection[Progress]) -> None:
        """Do what is due by now.

        Args:
            session: The session of the source.
            progress: Its subscriptions.
        """
        now = monotonic()
        if now >= self._figures_at:
            self._figures_at = now + FIGURES_PAUSE
            self._look_at_figures(session, progress, now)
        if now >= self._log_at:
            self._log_at = now + LOG_PAUSE
            self.log_state = log_state(session.connection)
        if now >= self._reader_at:
            self._reader_at = now + READER_PAUSE
            self._note_reader(session, progress)
            self._report_unread(session)
            session.connection.execute(RECLAIM_DONE)
        self._reclaimer.reclaim(session.connection)

    def _look_at_figures(
        self, session: LogSession, progress: Collection[Progress], now: float
    ) -> None:
        known = {one.sub: one for one in progress if one.sub is not None}
        behind = [sub for sub, one in known.items() if not one.is_caught_up]
        figures = session.figures([*known], behind)
        for sub, one in known.items():
            one.tally.figures = figures.get(sub)
            one.tally.note_rates(now)

    @staticmethod
    def _note_reader(session: LogSession, progress: Collection[Progress]) -> None:
        """Note that the session reads its subscriptions, at which rates."""
        known = {one.sub: one for one in progress if one.sub is not None}
        rates = [one.tally.rate or 0.0 for one in known.values()]
        session.connection.execute(_NOTE_READER, ([*known], rates))
        for sub, one in known.items():
            if one.binding.dispatcher.is_relay:
                by_key = one.tally.key_rates
                session.connection.execute(_NOTE_KEYS, (sub, [*by_key], [*by_key.values()]))

    def _report_unread(self, session: LogSession) -> None:
        for one in session.find_unread():
            logger.warning(
                "nobody has read subscription %r on channel %r since %s, and it keeps %s of the "
                "log, %.0f MB: run it, delete it with `pgnotifier positions forget`, or give it a "
                "max_lag",
                one.name,
                one.channel,
                one.read_at.isoformat(timespec="seconds"),
                count(one.slots, "slot"),
                one.bytes / MEGABYTE,
                extra=about(
                    "unread",
                    subscription=one.name,
                    channel=one.channel,
                    since=one.read_at,
                    size=one.bytes,
                ),
            )
