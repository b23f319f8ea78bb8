"""Listening: connect, listen to the channels that are live, and replace a lost connection."""

import logging
from collections.abc import Callable, Iterable
from time import monotonic

from pgnotifier._connection.session import ConnectionLostError
from pgnotifier._listener.commands import Commands
from pgnotifier._listener.connection_attempts import connect
from pgnotifier._listener.gaps import Gaps
from pgnotifier._listener.handover import move
from pgnotifier._listener.leadership import Leadership
from pgnotifier._listener.new_connection import listen, mark
from pgnotifier._listener.reader_connection import ReaderConnection, StoppingError
from pgnotifier._listener.state import StateReport
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.backoff import Backoff
from pgnotifier._runtime.clock import Moment, stretch
from pgnotifier._runtime.log_records import about, count
from pgnotifier.errors import (
    ConnectionFailedError,
    ListenRefusedError,
    NotListeningError,
    PgNotifierError,
)
from pgnotifier.notification import Gap
from pgnotifier.status import State

logger = logging.getLogger("pgnotifier.listener")

LONGEST_PAUSE = 1.0
"""Seconds between two attempts to connect, at most."""


class Listening:
    """Makes connections, and listens to the live channels on them; owned by the reader.

    A `restart()` that is called while there is no connection cuts short the pause before the next
    attempt to connect. That attempt listens to what is registered by then, and its outcome is the
    outcome of the restart.

    Attributes:
        live: The channels that are listened to, or will be once this listener leads.
        leads: Whether the connection listens. False on a standby.
        reconnects: How many connections have replaced another one.
    """

    def __init__(
        self,
        registry: Callable[[], Registry],
        commands: Commands,
        connection: ReaderConnection,
        leadership: Leadership | None,
        gaps: Gaps,
        state: StateReport,
    ) -> None:
        """Begin without a connection.

        Args:
            registry: Returns the current registry.
            commands: What was asked for and isn't done yet.
            connection: The reader's connection.
            leadership: Asks for the lead, if listeners share a standby name.
            gaps: Holds back deliveries, and reports what may have been missed.
            state: Is set to `listening`, `standby` or `disconnected`.
        """
        self.live: set[str] = set()
        self.leads = False
        self.reconnects = 0
        self._registry = registry
        self._commands = commands
        self._connection = connection
        self._leadership = leadership
        self._gaps = gaps
        self._state = state

    @property
    def wanted(self) -> frozenset[str]:
        """The live channels that nobody has asked to remove."""
        return frozenset(self.live - self._commands.channels("unlisten"))

    def add(self, channels: Iterable[str]) -> None:
        """Listen to more channels."""
        self._connection.router.start_deliverers(channels)
        if self.leads:
            self._connection.change("LISTEN", channels)
        self.live.update(channels)

    def remove(self, channels: Iterable[str]) -> None:
        """Stop listening to some channels."""
        if self.leads:
            own = self._connection.router.own
            self._connection.change("UNLISTEN", [one for one in channels if one not in own])
        self.live.difference_update(channels)
        self._connection.router.forget_leaving()

    def move(self) -> None:
        """Move to a new connection, and listen to what is registered now."""
        registered = set(self._registry())
        self._connection.router.start_deliverers(registered)
        if self.leads:
            view = None if self._leadership is None else self._leadership.view
            move(self._connection, registered, view)
        else:
            session = connect(self._connection)
            self._connection.close()
            self._connection.session = session
            mark(self._connection)
        self.live = registered
        self._connection.router.forget_leaving()
        self.reconnects += 1
        logger.info("moved to a new connection", extra=about("moved"))

    def connect_first(self, *, waits: bool) -> None:
        """Make the first connection.

        Args:
            waits: Whether to retry while the server can't be reached. Any cause of that may be
                temporary: on a cold start, names may not resolve yet, and databases, roles and
                passwords may be created later. If a server that can be reached refuses something,
                that isn't retried.

        Raises:
            PgNotifierError: There is no connection, and this doesn't retry.
        """
        backoff = Backoff(LONGEST_PAUSE)
        while True:
            restarts = self._commands.waiting("restart")
            self.live = set(self._registry())
            self._connection.router.start_deliverers(self.live)
            try:
                self._connect(hedged=waits)
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
        missed = self.wanted if self.leads else frozenset[str]()
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
                self.live = set(self._registry())
            try:
                self._connect(hedged=True)
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
        self.reconnects += 1
        gap = Gap(*stretch(since, Moment.now()), missed, reason) if missed else None
        takeover_gap = None
        if self._leadership is not None and self.leads:
            takeover_gap = self._leadership.find_gap(self.wanted)
        self._gaps.report(hold, gap, takeover_gap)
        self._commands.end(restarts)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless or until a restart is asked for."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._commands.waiting("restart"):
            self._connection.wait(left)

    def _connect(self, *, hedged: bool) -> None:
        """Make a connection, and listen to every live channel on it if this listener leads.

        That includes channels that were added while there was no connection: their callers were
        informed that the channels aren't live yet, and may take the state `listening` as the sign
        that they are. After an error, the caller closes the connection.

        Args:
            hedged: Whether to add another attempt each second until one is answered.

        Raises:
            ConnectionFailedError: No connection could be made, or it was lost at once.
            ListenRefusedError: The server refused LISTEN, as a standby server does.
            NotListeningError: A pooler keeps notifications from arriving.
        """
        self._connection.session = connect(
            self._connection, hedged=hedged, explain=self._state.explain
        )
        self.leads = False
        try:
            if self._leadership is None or self._leadership.acquire():
                self._listen()
            else:
                mark(self._connection)
                self._become("standby", f"as {self._leadership.view.name!r}")
        except ConnectionLostError as exc:
            raise self._connection.lost_before_listening(exc) from exc

    def _listen(self) -> None:
        """Listen to every live channel, on a connection that has the lead."""
        listen(self._connection, self.live | self._commands.channels("listen"))
        self.leads = True
        self._become("listening", count(len(self.live), "channel"))

    def _become(self, state: State, detail: str) -> None:
        server = f"PostgreSQL ({self._connection.parameters!r})"
        self._state.become(state, detail=f" {detail} of {server}")

    def try_to_take_over(self, leadership: Leadership) -> None:
        """Take over from a leader that has gone, if there is one.

        Raises:
            ConnectionLostError: The connection was lost, or can't listen: the lead is given up.
        """
        if not leadership.acquire():
            leadership.answer()
            leadership.end_vanished_leader()
            return
        gap: Gap | None = None
        hold = self._gaps.hold()
        try:
            self._listen()
            name = leadership.view.name
            logger.info(
                "took over as %r: listening %s",
                name,
                count(len(self.live), "channel"),
                extra=about("took_over", standby=name, count=len(self.live)),
            )
            gap = leadership.find_gap(self.wanted)
        except (ListenRefusedError, NotListeningError) as exc:
            raise ConnectionLostError(str(exc)) from exc  # which releases the lock
        finally:
            self._gaps.report(hold, gap)
