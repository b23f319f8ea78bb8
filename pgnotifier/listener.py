"""The listener: the reader thread, its command queue, and its deliverers."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

from pgnotifier.connection import (
    Backoff,
    Connecting,
    ConnectionLostError,
    Parameters,
    Session,
    listen_query,
)
from pgnotifier.delivery import Deliverer, Item
from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import (
    ConnectionFailedError,
    ListenRefusedError,
    NotifierStoppedError,
    PgNotifierError,
)
from pgnotifier.notification import Gap
from pgnotifier.registry import Binding, Registry
from pgnotifier.reporting import GapReport
from pgnotifier.waiting import Waiter

logger = logging.getLogger("pgnotifier.listener")

HEARTBEAT = 15.0
"""Seconds without a round trip after which an idle connection is asked for one."""
PROOF = 1.0
"""The same while notifications flow: what bounds how far back a gap has to reach."""
ANSWER_TIMEOUT = 30.0
"""Seconds after which a round trip without an answer means that the connection is dead."""

State = Literal["starting", "hearing", "reconnecting", "stopped"]
Route = tuple[str, tuple[tuple[Deliverer, tuple[Binding, ...]], ...]]


@dataclass(frozen=True, slots=True)
class Command:
    """What the reader is asked to do to its connection; `done` tells when it is live."""

    verb: Literal["listen", "unlisten", "restart"]
    channels: tuple[str, ...] = ()
    done: "Future[None]" = field(default_factory=Future)


class _StoppingError(Exception):
    """`stop()` was called while the reader waited for something."""


class Listener:
    """From `start()` to `stop()`: one reader, one connection, one deliverer per dispatcher.

    The reader thread owns the session, the waiter and `_live`, and nothing else touches
    them. Others hand it commands through `_commands`; `_lock` guards that queue and
    the setting of `ended`, so that no command is left behind by a reader that has ended.
    """

    def __init__(
        self,
        parameters: Parameters,
        registry: Callable[[], Registry],
        deliverer: Callable[[Dispatcher, Callable[[], None]], Deliverer],
        report_gap: GapReport,
    ) -> None:
        """Make a listener that isn't running yet.

        Args:
            parameters: Where to connect.
            registry: Returns the registry as it is now.
            deliverer: Makes the deliverer of a dispatcher, given what to call once a full
                buffer has room.
            report_gap: Told of each gap.
        """
        self.ready: Future[None] = Future()
        self.ended = threading.Event()
        self.state: State = "starting"
        self.received = 0
        self.reconnects = 0
        self.deliverers: Mapping[Dispatcher, Deliverer] = {}
        self._parameters = parameters
        self._registry = registry
        self._make_deliverer = deliverer
        self._report_gap = report_gap
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._stopping = False
        self._session: Session | None = None
        self._live: set[str] = set()
        self._routes: dict[bytes, Route] = {}
        self._routed: Registry | None = None
        self._leaving: set[str] = set()
        self._proven_at = datetime.now(UTC)
        self._proof_due = monotonic()
        self._unproven = False
        self._waiter = Waiter()
        self._thread = threading.Thread(target=self._run, name="pgnotifier-reader", daemon=True)

    # --- called by any thread ---

    def start(self) -> None:
        """Start the reader; `ready` tells how that went."""
        self._thread.start()

    def request(
        self, verb: Literal["listen", "unlisten", "restart"], channels: Iterable[str] = ()
    ) -> "Future[None]":
        """Queue a command and return the future that is done once it is live."""
        command = Command(verb, tuple(channels))
        with self._lock:
            if self.ended.is_set():
                command.done.set_exception(NotifierStoppedError("the notifier has stopped"))
                return command.done
            self._commands.append(command)
        self._waiter.wake()
        return command.done

    @property
    def is_alive(self) -> bool:
        """Whether the reader goes on, be it connected or not."""
        return not (self._stopping or self.ended.is_set())

    @property
    def has_failed(self) -> bool:
        """Whether the reader has ended without `stop()`: there was no first connection, say."""
        return self.ended.is_set() and not self._stopping

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
        self.ended = threading.Event()  # the parent's may be held by a thread that isn't here
        self.ended.set()
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
            self._start_deliverers(self._live)
            self._connect()
            self.state = "hearing"
            self.ready.set_result(None)
            logger.info("hearing %d channels of PostgreSQL (%r)", len(self._live), self._parameters)
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
        with self._lock:
            self.ended.set()
            self.state = "stopped"
            left = list(self._commands)
            self._commands.clear()
        self._waiter.close()
        if not self.ready.done():
            self.ready.set_exception(why)
        for command in left:
            command.done.set_exception(why)

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
        self._recover(reason, frozenset(self._live))

    def _turn(self) -> None:
        self._run_commands()
        if any(deliverer.full for deliverer in self.deliverers.values()):
            # PostgreSQL's own queue holds the rest. Whoever makes room wakes the reader.
            self._wait(HEARTBEAT, read=False)
            return
        self._wait(max(0.0, self._proof_due - monotonic()))
        self._drain()
        if monotonic() >= self._proof_due:
            self._round_trip(b"SELECT 1")
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
        while self._commands:
            # Left in the queue until it is done: if the connection goes meanwhile, it is
            # run again on the next one.
            command = self._commands[0]
            if command.verb == "restart":
                self._last_drain()
                self._recover("restart", frozenset(self._live))  # takes it off the queue
                continue
            try:
                if command.verb == "listen":
                    self._start_deliverers(command.channels)
                    self._round_trip(listen_query(command.channels))
                    self._live.update(command.channels)
                else:
                    self._round_trip(listen_query(command.channels, "UNLISTEN"))
                    self._live.difference_update(command.channels)
                    self._routed = None
            except RuntimeError as exc:  # refused by the server, or no thread to be had
                command.done.set_exception(exc)
            self._commands.popleft()
            if not command.done.done():
                command.done.set_result(None)

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
        """Put all that libpq has parsed into the buffers of those who are to get it."""
        assert self._session is not None
        notifies = self._session.notifies
        arrived = notifies()
        if arrived is None:
            return
        registry = self._registry()
        if registry is not self._routed:
            self._routes.clear()
            self._routed = registry
            # Not for those who subscribed to such a channel after it had been removed.
            self._leaving = {name for c in self._queued("unlisten") for name in c.channels}
        routes = self._routes
        proven_at = self._proven_at
        received_at = datetime.now(UTC)
        count = 0
        while arrived is not None:
            count += 1
            route = routes.get(arrived.relname)
            if route is None:
                route = self._route(registry, arrived.relname)
            channel, lanes = route
            for deliverer, bindings in lanes:
                item: Item = (channel, bindings, arrived, received_at, proven_at)
                deliverer.inbox.append(item)
            arrived = notifies()
        self.received += count
        for deliverer in self.deliverers.values():
            if deliverer.inbox:
                deliverer.put()
        if not self._unproven:
            self._unproven = True
            self._proof_due = min(self._proof_due, monotonic() + PROOF)

    def _route(self, registry: Registry, relname: bytes) -> Route:
        """Look a channel up; what comes on a removed one has no lanes, and goes nowhere."""
        channel = relname.decode("utf-8", "surrogateescape")
        found = () if channel in self._leaving else registry.lanes(channel)
        lanes = tuple((self._deliverer(d), bindings) for d, bindings in found)
        route = self._routes[relname] = (channel, lanes)
        return route

    def _deliverer(self, dispatcher: Dispatcher) -> Deliverer:
        found = self.deliverers.get(dispatcher)
        if found is None:
            found = self._make_deliverer(dispatcher, self._waiter.wake)
            found.start()
            self.deliverers = {**self.deliverers, dispatcher: found}  # others iterate over it
        return found

    def _start_deliverers(self, channels: Iterable[str]) -> None:
        # Not when the first notification comes: the main program may have ended by then, after
        # which Python 3.12.0 and 3.12.1 start no more threads.
        registry = self._registry()
        for channel in channels:
            for dispatcher, _ in registry.lanes(channel):
                self._deliverer(dispatcher)

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
        added = {name for command in self._queued("listen") for name in command.channels}
        try:
            query = listen_query(self._live | added) or b"SELECT 1"
            self._round_trip(self._session.preamble + query)
        except ConnectionLostError as exc:
            self._disconnect()
            raise ConnectionFailedError(
                f"lost the connection to PostgreSQL ({self._parameters!r}) before it answered "
                f"LISTEN: {exc}"
            ) from exc
        except ListenRefusedError:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._session is None:
            return
        self._waiter.forget(self._session.fd)
        self._session.close()
        self._session = None

    def _recover(self, reason: str, missed: frozenset[str]) -> None:
        """Connect again, for as long as it takes, and report what may have been missed.

        A restart that was asked for meanwhile, or that is the reason, has the next try made
        at once, listening to what the registry holds by then, and gets the try's outcome.

        Args:
            reason: Why this has to be.
            missed: The channels that were heard before.
        """
        since = self._proven_at
        begun = monotonic()
        backoff = Backoff()
        self.state = "reconnecting"
        warned = not self._queued("restart")
        if warned:
            logger.warning("lost the connection to PostgreSQL (%s); reconnecting", reason)
        self._disconnect()
        while True:
            self._sleep(backoff.pause())
            restarts = self._queued("restart")
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
                self._end(restarts, exc)
            else:
                break
        self.state = "hearing"
        self.reconnects += 1
        logger.warning("hearing PostgreSQL again after %.1f s", monotonic() - begun)
        if missed:
            self._report_gap(Gap(since, datetime.now(UTC), missed, reason))
        self._end(restarts)

    def _queued(self, verb: Literal["listen", "unlisten", "restart"]) -> list[Command]:
        with self._lock:
            return [command for command in self._commands if command.verb == verb]

    def _end(self, restarts: list[Command], exc: Exception | None = None) -> None:
        with self._lock:
            for command in restarts:
                self._commands.remove(command)
        for command in restarts:
            command.done.set_exception(exc) if exc else command.done.set_result(None)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless or until a restart is asked for."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._queued("restart"):
            self._wait(left)
