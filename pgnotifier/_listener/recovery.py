"""Recovery: make the first connection, and replace one that was lost, for as long as it takes."""

import logging
from collections.abc import Callable
from time import monotonic

from pgnotifier._listener.commands import Commands
from pgnotifier._listener.gaps import Gaps
from pgnotifier._listener.leadership import Leadership
from pgnotifier._listener.listening import Listening
from pgnotifier._listener.reader_connection import ReaderConnection, StoppingError
from pgnotifier._listener.state import StateReport
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.backoff import Backoff
from pgnotifier._runtime.clock import Moment, stretch
from pgnotifier._runtime.log_records import about
from pgnotifier.errors import ConnectionFailedError, PgNotifierError
from pgnotifier.notification import Gap

logger = logging.getLogger("pgnotifier.listener")

LONGEST_PAUSE = 1.0
"""Seconds between two attempts to connect, at most."""


class Recovery:
    """Connects with retries; owned by the reader.

    A `restart()` that is called meanwhile cuts the pause before the next attempt short. That
    attempt then listens to what is registered by then, and its outcome is that of the restart.
    """

    def __init__(
        self,
        registry: Callable[[], Registry],
        commands: Commands,
        connection: ReaderConnection,
        listening: Listening,
        leadership: Leadership | None,
        gaps: Gaps,
        state: StateReport,
    ) -> None:
        """Take what is to be connected.

        Args:
            registry: Returns the current registry.
            commands: Has the restarts that were asked for.
            connection: The reader's connection.
            listening: Connects and listens.
            leadership: Is given up with the connection, if there is one.
            gaps: Holds back deliveries, and reports what may have been missed.
            state: Is set to `disconnected`.
        """
        self._registry = registry
        self._commands = commands
        self._connection = connection
        self._listening = listening
        self._leadership = leadership
        self._gaps = gaps
        self._state = state

    def connect_first(self, *, waits: bool) -> None:
        """Make the first connection.

        Args:
            waits: Whether to retry while the server can't be reached. Any cause of that may pass:
                on a cold start, names aren't resolved yet, and databases, roles and passwords may
                be created later. What a server refuses that can be reached isn't retried.

        Raises:
            PgNotifierError: There is no connection, and this doesn't retry.
        """
        backoff = Backoff(LONGEST_PAUSE)
        while True:
            restarts = self._commands.waiting("restart")
            self._listening.live = set(self._registry())
            self._connection.router.start_deliverers(self._listening.live)
            try:
                self._listening.connect(hedged=waits)
            except ConnectionFailedError as exc:
                if not waits:
                    raise
                self._state.explain(str(exc))
                self._connection.close()
                self._commands.end(restarts, exc)
                self._sleep(backoff.pause())
            else:
                self._commands.end(restarts)
                return

    def reconnect(self, reason: str) -> None:
        """Replace a lost connection, and report what may have been missed.

        Args:
            reason: Why the connection was lost.

        Raises:
            StoppingError: `stop()` was called.
        """
        missed = self._listening.wanted if self._listening.leads else frozenset[str]()
        since = self._connection.round_trips.proven_at
        self._state.become("disconnected", f"lost the connection to PostgreSQL: {reason}")
        self._connection.read_rest()
        if self._leadership is not None:
            self._leadership.dismiss()
        self._connection.close()
        hold = self._gaps.hold()
        backoff = Backoff(LONGEST_PAUSE)
        while True:
            self._sleep(backoff.pause())
            restarts = self._commands.waiting("restart")
            if restarts:
                self._listening.live = set(self._registry())
            try:
                self._listening.connect(hedged=True)
            except StoppingError:
                raise
            except Exception as exc:
                defect = not isinstance(exc, PgNotifierError)
                extra = about("not_back", error=type(exc).__name__)
                logger.info("not back yet: %s", exc, exc_info=defect, extra=extra)
                self._state.explain(str(exc))
                self._connection.close()
                self._commands.end(restarts, exc)
            else:
                break
        self._listening.reconnects += 1
        gap = Gap(*stretch(since, Moment.now()), missed, reason) if missed else None
        self._gaps.report(hold, gap, self._listening.find_takeover_gap())
        self._commands.end(restarts)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless or until a restart is asked for."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._commands.waiting("restart"):
            self._connection.wait(left)
