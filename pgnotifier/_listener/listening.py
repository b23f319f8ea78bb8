"""What the reader listens to: the live channels, on a connection that may have to lead first."""

import logging
from collections.abc import Callable, Iterable

from pgnotifier._connection.session import ConnectionLostError
from pgnotifier._listener.commands import Commands
from pgnotifier._listener.connection_attempts import ConnectionAttempts
from pgnotifier._listener.gaps import Gaps
from pgnotifier._listener.handover import Handover
from pgnotifier._listener.heartbeat import Heartbeat
from pgnotifier._listener.leadership import Leadership
from pgnotifier._listener.listen_check import ListenCheck
from pgnotifier._listener.reader_connection import ReaderConnection
from pgnotifier._listener.state import StateReport
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.log_records import about, count
from pgnotifier.errors import ListenRefusedError, NotListeningError
from pgnotifier.notification import Gap
from pgnotifier.status import State

logger = logging.getLogger("pgnotifier.listener")


class Listening:
    """Makes connections, and listens to the live channels on them; owned by the reader.

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
        heartbeat: Heartbeat,
        leadership: Leadership | None,
        gaps: Gaps,
        state: StateReport,
    ) -> None:
        """Begin without a connection.

        Args:
            registry: Returns the current registry.
            commands: What was asked for and isn't done yet.
            connection: The reader's connection.
            heartbeat: Checks that a new connection receives notifications.
            leadership: Asks for the lead, if listeners share a standby name.
            gaps: Reports what was missed before this listener took over.
            state: Is set to `listening` or `standby`.
        """
        self.live: set[str] = set()
        self.leads = False
        self.reconnects = 0
        self._registry = registry
        self._commands = commands
        self._router = connection.router
        self._connection = connection
        self._attempts = ConnectionAttempts(connection)
        self._check = ListenCheck(connection, self._attempts, heartbeat)
        self._handover = Handover(connection, self._attempts, self._check)
        self._leadership = leadership
        self._gaps = gaps
        self._state = state

    @property
    def wanted(self) -> frozenset[str]:
        """The live channels that nobody has asked to remove."""
        return frozenset(self.live - self._commands.channels("unlisten"))

    def add(self, channels: Iterable[str]) -> None:
        """Listen to more channels."""
        self._router.start_deliverers(channels)
        if self.leads:
            self._connection.change("LISTEN", channels)
        self.live.update(channels)

    def remove(self, channels: Iterable[str]) -> None:
        """Stop listening to some channels."""
        if self.leads:
            self._connection.change("UNLISTEN", channels)
        self.live.difference_update(channels)
        self._router.forget_leaving()

    def move(self) -> None:
        """Move to a new connection, and listen to what is registered now."""
        registered = set(self._registry())
        self._router.start_deliverers(registered)
        if self.leads:
            view = None if self._leadership is None else self._leadership.view
            self._handover.run(registered, view)
        else:
            session = self._attempts.connect()
            self._connection.close()
            self._connection.session = session
        self.live = registered
        self._router.forget_leaving()
        self.reconnects += 1
        logger.info("moved to a new connection", extra=about("moved"))

    def connect(self, *, hedged: bool = False) -> None:
        """Make a connection, and listen to every live channel on it if this listener leads.

        That includes channels that were added while there was no connection: their callers were
        informed that the channels aren't live yet, and may take the state `listening` as the sign
        that they are.

        Args:
            hedged: Whether to add another attempt each second until one is answered.

        Raises:
            ConnectionFailedError: No connection could be made, or it was lost at once.
            ListenRefusedError: The server refused LISTEN, as a standby server does.
            NotListeningError: A pooler keeps notifications from arriving.
        """
        self._connection.session = self._attempts.connect(hedged=hedged)
        self.leads = False
        try:
            if self._leadership is None or self._leadership.acquire():
                self._listen()
            else:
                self._become("standby", f"as {self._leadership.view.name!r}")
        except ConnectionLostError as exc:
            self._connection.close()
            raise self._connection.lost_before_listening(exc) from exc
        except (ListenRefusedError, NotListeningError):
            self._connection.close()
            raise

    def _listen(self) -> None:
        """Listen to every live channel, on a connection that has the lead."""
        self._check.listen(self.live | self._commands.channels("listen"))
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
            leadership.end_vanished_leader()
            return
        hold = self._gaps.hold()
        try:
            self._listen()
        except (ListenRefusedError, NotListeningError) as exc:
            self._gaps.report(hold)
            raise ConnectionLostError(str(exc)) from exc  # which releases the lock
        except BaseException:
            self._gaps.report(hold)
            raise
        name = leadership.view.name
        logger.info(
            "took over as %r: listening %s",
            name,
            count(len(self.live), "channel"),
            extra=about("took_over", standby=name, count=len(self.live)),
        )
        self._gaps.report(hold, self.find_takeover_gap())

    def find_takeover_gap(self) -> Gap | None:
        """Return the gap between another listener's lead and this one's, if there is one."""
        if self._leadership is None or not self.leads:
            return None
        return self._leadership.find_gap(self.wanted)
