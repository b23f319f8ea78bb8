"""The listener: the reader thread, which owns the connection, and its deliverers."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

from pgnotifier.commands import Command, Commands, Verb
from pgnotifier.connection import (
    Backoff,
    Connecting,
    ConnectionLostError,
    Parameters,
    Session,
    listen_query,
)
from pgnotifier.delivery import Deliverer
from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import (
    ConnectionFailedError,
    ListenRefusedError,
    NotifierStoppedError,
    PgNotifierError,
)
from pgnotifier.gate import Gate, Outcome
from pgnotifier.notification import Gap
from pgnotifier.registry import Registry
from pgnotifier.reporting import GapReport
from pgnotifier.routing import Router
from pgnotifier.standby import POLL, Standby
from pgnotifier.waiting import Waiter

logger = logging.getLogger("pgnotifier.listener")

HEARTBEAT = 15.0
"""Seconds without a round trip after which an idle connection is asked for one."""
PROOF = 1.0
"""The same while notifications flow: what bounds how far back a gap has to reach."""
ANSWER_TIMEOUT = 30.0
"""Seconds after which a round trip without an answer means that the connection is dead."""

State = Literal["starting", "hearing", "standby", "reconnecting", "stopped"]


class _StoppingError(Exception):
    """`stop()` was called while the reader waited for something."""


class Listener:
    """From `start()` to `stop()`: one reader, one connection, one deliverer per dispatcher.

    The reader thread owns the session, the waiter, the router and `_live`, the channels that
    are listened to. Others ask it to change these through `_commands`.
    """

    def __init__(
        self,
        parameters: Parameters,
        registry: Callable[[], Registry],
        deliverer: Callable[[Dispatcher, Callable[[], None]], Deliverer],
        report_gap: GapReport,
        standby: str | None = None,
    ) -> None:
        """Make a listener that isn't running yet.

        Args:
            parameters: Where to connect.
            registry: Returns the registry as it is now.
            deliverer: Makes the deliverer of a dispatcher, given what to call once a full
                buffer has room.
            report_gap: Told of each gap.
            standby: The name that listeners share of which one leads, if so.
        """
        self.ready = Outcome()
        self.ended = Gate()
        self.state: State = "starting"
        self.reconnects = 0
        self._parameters = parameters
        self._registry = registry
        self._report_gap = report_gap
        self._commands = Commands()
        self._standby = None if standby is None else Standby(standby)
        self._leads = False
        self._stopping = False
        self._session: Session | None = None
        self._live: set[str] = set()
        self._proven_at = datetime.now(UTC)
        self._proof_due = monotonic()
        self._unproven = False
        self._waiter = Waiter()
        self._router = Router(
            registry,
            lambda dispatcher: deliverer(dispatcher, self._waiter.wake),
            lambda: self._commands.channels("unlisten"),
        )
        self._thread = threading.Thread(target=self._run, name="pgnotifier-reader", daemon=True)

    # --- called by any thread ---

    def start(self) -> None:
        """Start the reader; `ready` tells how that went."""
        self._thread.start()

    def request(self, verb: Verb, channels: Iterable[str] = ()) -> Outcome:
        """Queue a command and return its outcome: it is done once it is live."""
        done = self._commands.ask(verb, channels)
        self._waiter.wake()
        return done

    @property
    def deliverers(self) -> Mapping[Dispatcher, Deliverer]:
        """The deliverers that run, by dispatcher."""
        return self._router.deliverers

    @property
    def received(self) -> int:
        """How many notifications have been read."""
        return self._router.received

    @property
    def is_alive(self) -> bool:
        """Whether the reader goes on, be it connected or not."""
        return not (self._stopping or self.ended.is_open)

    @property
    def has_failed(self) -> bool:
        """Whether the reader has ended without `stop()`: there was no first connection, say."""
        return self.ended.is_open and not self._stopping

    def delivers_here(self) -> bool:
        """Return whether a dispatcher of this listener has called the calling code."""
        return any(deliverer.is_current() for deliverer in self.deliverers.values())

    def stop(self, timeout: float) -> int:
        """End the reader, then deliver what was received, within a time in seconds.

        Returns:
            How many deliveries had to be given up.
        """
        deadline = monotonic() + timeout
        self._stopping = True
        self._waiter.wake()
        if self._thread is not threading.current_thread() and self._thread.ident:
            self._thread.join(timeout)
        for deliverer in self.deliverers.values():
            deliverer.hurry()  # all at once: each may need the whole time
        undelivered = sum(d.stop(deadline) for d in self.deliverers.values())
        for dispatcher in self.deliverers:
            try:
                dispatcher.close()
            except Exception:
                logger.exception("%r could not be closed", dispatcher)
        return undelivered

    def forget_in_child(self) -> None:
        """Let go of the parent's descriptors in a forked child, where no thread of ours runs."""
        self.ended.open()
        self.state = "stopped"
        for deliverer in self.deliverers.values():
            deliverer.forget_in_child()
        if self._session is not None:
            self._session.forget_in_child()
        self._waiter.close()

    # --- the reader thread ---

    def _run(self) -> None:
        why: BaseException = NotifierStoppedError("the notifier was stopped")
        try:
            self._live = set(self._registry())
            self._router.start_deliverers(self._live)
            self._connect()
            self.ready.settle()
            what = f"hearing {len(self._live)} channels" if self._leads else "standing by"
            logger.info("%s of PostgreSQL (%r)", what, self._parameters)
            while True:
                self._serve()
        except _StoppingError:
            self._last_drain()
        except PgNotifierError as exc:  # at the first connection only
            why = exc
        except BaseException as exc:
            logger.exception("the reader ended by a defect of pgnotifier")
            why = exc
        finally:
            self._finish(why)

    def _finish(self, why: BaseException) -> None:
        if self._session is not None:
            self._session.close()
        self.ended.open()
        self.state = "stopped"
        self._waiter.close()
        if not self.ready.is_open:
            self.ready.settle(why)
        self._commands.close(why)
        self._report_missed()
        for deliverer in self.deliverers.values():
            deliverer.hurry()  # nobody calls `stop()` when the first connection couldn't be made

    def _serve(self) -> None:
        """Hear until the connection is lost, then get it back."""
        try:
            while True:
                self._turn()
        except ConnectionLostError as lost:
            reason = str(lost) or "the server closed the connection"
        except _StoppingError:
            raise
        except Exception as exc:
            # Deaf for a moment and saying so beats deaf for good.
            logger.exception("a defect of pgnotifier; starting over with a new connection")
            reason = f"internal error: {exc}"
        self._recover(reason)

    def _turn(self) -> None:
        self._run_commands()
        if not self._leads:
            self._wait(POLL)
            self._drain()
            self._try_to_take_over()
            return
        if self._router.is_full():
            # PostgreSQL's own queue holds the rest. Whoever makes room wakes the reader.
            self._wait(HEARTBEAT, read=False)
            return
        self._wait(max(0.0, self._proof_due - monotonic()))
        self._drain()
        if monotonic() >= self._proof_due:
            self._round_trip(b"SELECT 1")
        self._report_missed()

    def _report_missed(self) -> None:
        for deliverer in self.deliverers.values():
            if missed := deliverer.take_missed():
                self._report_gap(missed)

    def _wait(self, timeout: float, *, read: bool = True, write: bool = False) -> None:
        """Wait for the connection, a wake-up, or the time to pass, in seconds.

        Raises:
            _StoppingError: `stop()` was called.
        """
        fd = None if self._session is None else self._session.fd
        self._waiter.wait(timeout, fd, read=read, write=write)
        if self._stopping:
            raise _StoppingError

    def _run_commands(self) -> None:
        while (command := self._commands.first()) is not None:
            if command.verb == "restart":
                self._last_drain()
                self._recover("restart")  # ends the command
                continue
            try:
                self._run_command(command)
            except RuntimeError as exc:  # refused by the server, or no thread to be had
                self._commands.end([command], exc)
            else:
                self._commands.end([command])

    def _run_command(self, command: Command) -> None:
        if command.verb == "listen":
            self._router.start_deliverers(command.channels)
            if self._leads:
                self._round_trip(listen_query(command.channels))
            self._live.update(command.channels)
        else:
            if self._leads:
                self._round_trip(listen_query(command.channels, "UNLISTEN"))
            self._live.difference_update(command.channels)
            self._router.forget_leaving()

    def _round_trip(self, query: bytes) -> None:
        """Send a query and hear on until it is answered.

        Raises:
            ConnectionLostError: The connection went, or gave no answer in 30 s.
            ListenRefusedError: The server answered with an error.
        """
        assert self._session is not None
        begun_at = datetime.now(UTC)
        deadline = monotonic() + ANSWER_TIMEOUT
        self._session.send(query)
        try:
            while True:
                unsent = self._session.flush()
                self._drain()
                if not unsent and self._session.answered():
                    break
                left = deadline - monotonic()
                if left <= 0:
                    raise ConnectionLostError(
                        f"no answer from the server for {ANSWER_TIMEOUT:.0f} s"
                    )
                self._wait(left, write=unsent)
        finally:
            # What came just before the answer, be it a refusal, may have been read with it.
            self._hand_on()
        self._proven_at = begun_at
        self._unproven = False
        self._proof_due = monotonic() + HEARTBEAT

    def _drain(self) -> None:
        assert self._session is not None
        try:
            self._session.consume()
        finally:
            self._hand_on()  # what came before the connection was lost, too

    def _hand_on(self) -> None:
        assert self._session is not None
        arrived = self._router.hand_on(self._session.notifies, self._proven_at)
        if arrived and not self._unproven:
            self._unproven = True
            self._proof_due = min(self._proof_due, monotonic() + PROOF)

    def _last_drain(self) -> None:
        if self._session is not None:
            with contextlib.suppress(ConnectionLostError):
                self._drain()

    # --- connecting ---

    def _connect(self) -> None:
        """Make a connection and listen to every live channel on it.

        To those that were added while there was none as well: whoever was told that they
        aren't live yet may take `hearing` for the sign that they are.

        Raises:
            ConnectionFailedError: No connection could be made, or it was lost at once.
            ListenRefusedError: The server refused LISTEN, as a standby does.
        """
        connecting = Connecting(self._parameters, self._waiter.wake)
        try:
            while not connecting.done:
                self._wait(HEARTBEAT)
        except _StoppingError:
            connecting.abandon()
            raise
        self._session = connecting.result()
        self._leads = False
        try:
            if self._standby is None or self._ask_for_lead(self._standby):
                self._listen()
            else:
                self.state = "standby"
        except ConnectionLostError as exc:
            self._disconnect()
            raise ConnectionFailedError(
                f"lost the connection to PostgreSQL ({self._parameters!r}) before it answered "
                f"LISTEN: {exc}"
            ) from exc
        except ListenRefusedError:
            self._disconnect()
            raise

    def _listen(self) -> None:
        """Listen to every live channel, on a session that has the lead."""
        assert self._session is not None
        added = self._commands.channels("listen")
        query = listen_query(self._live | added) or b"SELECT 1"
        self._round_trip(self._session.preamble + query)
        self._leads = True
        self.state = "hearing"

    def _ask_for_lead(self, standby: Standby) -> bool:
        assert self._session is not None
        self._round_trip(standby.query)
        return standby.learn(self._session.row)

    def _try_to_take_over(self) -> None:
        assert self._standby is not None
        if not self._ask_for_lead(self._standby):
            return
        try:
            self._listen()
        except ListenRefusedError as exc:  # and so the lock is to go
            raise ConnectionLostError(str(exc)) from exc
        logger.warning("took over as %r: hearing %d channels", self._standby.name, len(self._live))
        self._report_takeover()

    def _report_takeover(self) -> None:
        since = self._standby.take_over() if self._standby is not None and self._leads else None
        if since is not None and (missed := self._wanted()):
            why = "another listener led before"
            self._report_gap(Gap(since, datetime.now(UTC), missed, why))

    def _wanted(self) -> frozenset[str]:
        """Return the live channels that nobody has removed meanwhile."""
        return frozenset(self._live - self._commands.channels("unlisten"))

    def _disconnect(self) -> None:
        if self._session is None:
            return
        self._waiter.forget(self._session.fd)
        self._session.close()
        self._session = None

    def _recover(self, reason: str) -> None:
        """Connect again, for as long as it takes, and report what may have been missed.

        A restart that was asked for meanwhile, or that is the reason, has the next try made
        at once, listening to what the registry holds by then, and gets the try's outcome.

        Args:
            reason: Why this has to be.
        """
        missed = self._wanted() if self._leads else frozenset[str]()
        since = self._proven_at
        begun = monotonic()
        backoff = Backoff()
        self.state = "reconnecting"
        warned = not self._commands.waiting("restart")
        if warned:
            logger.warning("lost the connection to PostgreSQL (%s); reconnecting", reason)
        self._disconnect()
        while True:
            self._sleep(backoff.pause())
            restarts = self._commands.waiting("restart")
            if restarts:
                self._live = set(self._registry())
            try:
                self._connect()
            except _StoppingError:
                raise
            except Exception as exc:
                if warned:
                    defect = not isinstance(exc, PgNotifierError)
                    logger.info("not back yet: %s", exc, exc_info=defect)
                else:
                    logger.warning("no new connection to PostgreSQL (%s); trying on", exc)
                    warned = True
                self._disconnect()
                self._commands.end(restarts, exc)
            else:
                break
        self.reconnects += 1
        what = "hearing PostgreSQL" if self._leads else "standing by"
        logger.warning("%s again after %.1f s", what, monotonic() - begun)
        if missed:
            self._report_gap(Gap(since, datetime.now(UTC), missed, reason))
        self._report_takeover()
        self._commands.end(restarts)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless or until a restart is asked for."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._commands.waiting("restart"):
            self._wait(left)
