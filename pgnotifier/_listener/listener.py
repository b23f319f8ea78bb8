"""The listener: the reader thread, which owns the connection, and its deliverers."""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from pgnotifier._connection.connecting import is_connecting_here
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import ConnectionLostError
from pgnotifier._delivery.buffer import REPORT_PAUSE, Barrier
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.reports import GapReport
from pgnotifier._listener.commands import Command, Commands, Verb
from pgnotifier._listener.companion import Companion
from pgnotifier._listener.gaps import GapHold
from pgnotifier._listener.handover import Handover
from pgnotifier._listener.leader import POLL, Standby
from pgnotifier._listener.link import Link, StoppingError
from pgnotifier._listener.queue_usage import QueueUsage
from pgnotifier._listener.router import Router
from pgnotifier._listener.state import StateReport
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.backoff import Backoff
from pgnotifier._runtime.clock import Moment, stretch
from pgnotifier._runtime.log_records import about, count
from pgnotifier._runtime.sync import Gate, Outcome
from pgnotifier.dispatch import Delivery, Dispatcher
from pgnotifier.errors import (
    ConnectionFailedError,
    ListenRefusedError,
    NotifierStoppedError,
    NotListeningError,
    PgNotifierError,
)
from pgnotifier.notification import Gap
from pgnotifier.status import Latency

logger = logging.getLogger("pgnotifier.listener")


LONGEST_PAUSE = 1.0
"""Seconds between two tries to connect again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a listener listens.

    Attributes:
        heartbeat: Seconds without anything after which an idle connection is tried.
        heartbeat_timeout: Seconds within which that has to succeed.
        standby: The name that listeners share of which one leads, if so.
        waits: Whether to try on until the server can be reached for the first time.
    """

    heartbeat: float = 15.0
    heartbeat_timeout: float = 5.0
    standby: str | None = None
    waits: bool = False


class Listener:
    """From `start()` to `stop()`: one reader, one connection, one deliverer per dispatcher.

    The reader thread owns the link, the router and `_live`, the channels that are listened
    to. Others ask it to change these through `_commands`.
    """

    def __init__(
        self,
        parameters: Parameters,
        registry: Callable[[], Registry],
        deliverer: Callable[[Dispatcher, Callable[[], None]], Deliverer],
        report_gap: GapReport,
        report_state: StateReport,
        settings: Settings,
    ) -> None:
        """Make a listener that isn't running yet.

        Args:
            parameters: Where to connect.
            registry: Returns the registry as it is now.
            deliverer: Makes the deliverer of a dispatcher, given what to call once a full
                buffer has room.
            report_gap: Told of each gap.
            report_state: Told of each state.
            settings: How to listen.
        """
        self.ready = Outcome()
        self.ended = Gate()
        self.reconnects = 0
        self._parameters = parameters
        self._registry = registry
        self._report_gap = report_gap
        self._state = report_state
        self._commands = Commands()
        self._standby = (
            None
            if settings.standby is None
            else Standby(settings.standby, settings.heartbeat, settings.heartbeat_timeout)
        )
        self._show_at = 0.0
        self._waits = settings.waits
        self._leads = False
        self._stopping = False
        self._live: set[str] = set()
        self._barring = GapHold()
        self._barring.lift()
        self._told: dict[Deliverer, tuple[Barrier, Gap]] = {}  # of what was dropped
        self._router = Router(
            registry,
            lambda dispatcher: deliverer(dispatcher, self._link.wake),
            lambda: self._commands.channels("unlisten"),
            self._bar_too,
        )
        self._link = Link(
            parameters,
            self._router,
            settings.heartbeat,
            settings.heartbeat_timeout,
            lambda: self._stopping,
        )
        timeout = settings.heartbeat_timeout
        self._handover = Handover(self._link, self._router, parameters, timeout)
        self._backlog = QueueUsage(self._link.ask)
        self._locking = (self._commands, self._router, self._report_gap, self._state)
        self._companion = (
            None
            if self._standby is None
            else Companion(parameters, self._link.wake, self._standby.accompany)
        )
        self._thread = threading.Thread(target=self._run, name="pgnotifier-reader", daemon=True)
        self._starter: int | None = threading.get_ident()  # until the reader runs

    # --- called by any thread ---

    def start(self) -> None:
        """Start the reader; `ready` tells how that went."""
        if self._stopping:  # before it came to this
            self._finish(NotifierStoppedError("the notifier was stopped"))
            return
        self._state.become("starting")
        self._thread.start()
        self._starter = None

    def abort(self, why: Exception) -> None:
        """End in the place of `start`, or after that failed."""
        self._finish(why)

    def request(self, verb: Verb, channels: Iterable[str] = ()) -> Outcome:
        """Queue a command and return its outcome: it is done once it is live."""
        done = self._commands.ask(verb, channels)
        self._link.wake()
        return done

    def retire(self, dispatchers: Iterable[Dispatcher]) -> None:
        """Have the deliverers of dispatchers end that have no subscription any more."""
        self._router.retire(dispatchers)
        self._link.wake()

    @property
    def deliverers(self) -> Mapping[Dispatcher, Deliverer]:
        """The deliverers that run, by dispatcher."""
        return self._router.deliverers

    @property
    def received(self) -> int:
        """How many notifications have been read."""
        return self._router.received

    def counts(self) -> Mapping[str, int]:
        """Return how many notifications have come on each registered channel."""
        return self._router.counts()

    @property
    def latency(self) -> Latency | None:
        """How long round trips to the server take; None before the first."""
        return self._link.latency

    @property
    def queue_usage(self) -> float | None:
        """How full PostgreSQL's queue was, as a fraction; None before the first look."""
        return self._backlog.usage

    @property
    def is_alive(self) -> bool:
        """Whether the reader goes on, be it connected or not."""
        return not (self._stopping or self.ended.is_open)

    @property
    def has_failed(self) -> bool:
        """Whether the reader has ended without `stop()`: there was no first connection, say."""
        return self.ended.is_open and not self._stopping

    def is_reader(self) -> bool:
        """Return whether the reader runs the calling code: a handler of the log, say."""
        return self._thread is threading.current_thread()

    def waits_for_caller(self) -> bool:
        """Return whether the reader can't go on before the calling code is done.

        Besides the reader's own thread, that is so for a `db_conf` that is asked what to connect
        with, for what is called while the reader is still to be started, and for a signal handler
        or a finalizer that has interrupted what holds a lock of ours.
        """
        return (
            self.is_reader()
            or is_connecting_here(self._parameters)
            or self._starter == threading.get_ident()
            or any(one.is_locked_here for one in (*self._locking, self._barring))
        )

    def delivering_here(self) -> list[threading.Thread]:
        """Return the threads that go on delivering once the calling code, a callback, is done."""
        return [one.thread for one in self.deliverers.values() if one.is_current()]

    def stop(self, timeout: float) -> int:
        """End the reader, then deliver what was received, within a time in seconds.

        Returns:
            How many deliveries had to be given up.
        """
        deadline = monotonic() + timeout
        self._stopping = True
        self._link.wake()
        if self._thread.ident and not self.waits_for_caller():
            self._thread.join(timeout)
        for deliverer in self.deliverers.values():
            deliverer.hurry()  # all at once: each may need the whole time
        undelivered, stopped = 0, set[Deliverer]()
        while left := [d for d in self.deliverers.values() if d not in stopped]:
            # One may have been made meanwhile, by another one that handed on to it.
            undelivered += sum(d.stop(deadline) for d in left)
            stopped.update(left)
        for dispatcher in self.deliverers:
            try:
                dispatcher.close()
            except Exception:
                logger.exception(
                    "%r could not be closed",
                    dispatcher,
                    extra=about("close_failed", dispatcher=type(dispatcher).__name__),
                )
        return undelivered

    def forget_in_child(self) -> None:
        """End the deliverers in a forked child, where no other thread of ours runs."""
        self.ended.open()
        for deliverer in self.deliverers.values():
            deliverer.forget_in_child()
        self._link.forget_in_child()

    # --- the reader thread ---

    def _run(self) -> None:
        why: BaseException = NotifierStoppedError("the notifier was stopped")
        try:
            self._connect_first()
            self.ready.settle()
            while True:
                self._serve()
        except StoppingError:
            self._link.drain_last()
        except PgNotifierError as exc:  # at the start only
            why = exc
        except BaseException as exc:
            logger.exception("the reader ended by a defect of pgnotifier", extra=about("defect"))
            why = exc
        finally:
            self._finish(why)

    def _finish(self, why: BaseException) -> None:
        self._starter = None
        self._dismiss()
        self._link.end()
        self._state.become("stopped")
        self.ended.open()
        if not self.ready.is_open:
            self.ready.settle(why)
        self._commands.close(why)
        self._report_missed(at_once=True)
        for deliverer in self.deliverers.values():
            deliverer.hurry()  # nobody calls `stop()` when the first connection couldn't be made

    def _serve(self) -> None:
        """Hear until the connection is lost, then get it back."""
        try:
            while True:
                self._turn()
        except ConnectionLostError as lost:
            reason = str(lost) or "the server closed the connection"
        except StoppingError:
            raise
        except PgNotifierError as exc:  # the server refused a query of ours
            reason = str(exc)
        except Exception as exc:
            # Disconnected for a moment and saying so beats disconnected for good.
            logger.exception(
                "a defect of pgnotifier; starting over with a new connection", extra=about("defect")
            )
            reason = f"internal error: {exc}"
        self._recover(reason)

    def _turn(self) -> None:
        # A round trip takes the wake-up of whoever asks for something meanwhile. So that is looked
        # for after the last one, before the reader waits.
        if self._leads and not self._router.is_full():
            self._backlog.look()
        self._run_commands()
        if self._companion is not None:
            self._accompany(self._companion)
        stuck = [one for one in (self._report_gap, self._state, self._router) if one.is_stuck]
        for one in stuck:
            one.resume()
        self._forget_retired()
        if not self._leads:
            self._link.wait(POLL)
            self._link.drain()
            self._try_to_take_over()
        elif self._router.is_full():
            self._link.pause()  # whoever makes room wakes the reader
        else:
            self._show_standbys()
            missing = self._router.has_missed()
            if missing:
                self._report_missed()
            # Last, as it wakes deliverers, and they can't run before the reader waits again.
            longest = math.inf if self._standby is None else POLL
            self._link.hear(min(longest, REPORT_PAUSE) if missing or stuck else longest)

    def _show_standbys(self) -> None:
        """Let standbys see how much has been read, as often as they look.

        By that they know how far back the gap has to reach, should one take over.
        """
        if self._standby is not None and monotonic() >= self._show_at:
            self._show_at = monotonic() + POLL
            self._link.show()

    def _forget_retired(self) -> None:
        # A method of its own, so that no variable keeps them while the reader waits.
        for retired in self._router.take_retired():
            self._told.pop(retired, None)

    def _report_missed(self, *, at_once: bool = False) -> None:
        """Report what overflow policies have dropped.

        Not faster than users are told: while that goes on, the next gap grows instead.
        """
        if self._report_gap.is_busy and not at_once:
            return
        for deliverer in self.deliverers.values():
            if missed := deliverer.take_missed(at_once=at_once):
                self._report_gap(missed)
                self._tell(deliverer, missed)

    def _tell(self, deliverer: Deliverer, missed: Gap) -> None:
        """Have a dispatcher's subscriptions told of a gap, where it has got to by now.

        Nothing has to wait for that, as others are on their way already. If they haven't been
        told of the one before yet, both become one.
        """
        if deliverer in self._told:
            barrier, before = self._told[deliverer]
            both = before.merge(missed)
            if deliverer.lift(barrier, self._deliveries([both], deliverer.dispatcher)):
                self._told[deliverer] = barrier, both
                return
        barrier = Barrier()
        deliverer.bar(barrier)
        deliverer.lift(barrier, self._deliveries([missed], deliverer.dispatcher))
        self._told[deliverer] = barrier, missed

    def _run_commands(self) -> None:
        while (command := self._commands.first()) is not None:
            try:
                self._run_command(command)
            except PgNotifierError as exc:
                self._commands.end([command], exc)
            else:
                self._commands.end([command])

    def _run_command(self, command: Command) -> None:
        match command.verb:
            case "listen":
                self._router.start_deliverers(command.channels)
                if self._leads:
                    self._link.change("LISTEN", command.channels)
                self._live.update(command.channels)
            case "unlisten":
                if self._leads:
                    self._link.change("UNLISTEN", command.channels)
                self._live.difference_update(command.channels)
                self._router.forget_leaving()
            case "restart":
                self._replace()

    def _replace(self) -> None:
        """Go over to a new connection, listening to what is registered now."""
        registered = set(self._registry())
        self._router.start_deliverers(registered)
        if self._leads:
            self._handover.run(registered, self._standby)
        else:
            session = self._link.connect()
            self._link.close()
            self._link.session = session
        self._live = registered
        self._router.forget_leaving()
        self.reconnects += 1
        logger.info("went over to a new connection", extra=about("moved"))

    # --- connecting ---

    def _connect_first(self) -> None:
        """Make the first connection; if it is to wait, try on while none can be made.

        Whatever keeps it from being made may pass: on a cold start, names aren't resolved yet, and
        databases, roles and their passwords are still to come. What a server refuses that can
        be reached doesn't.
        """
        backoff = Backoff(LONGEST_PAUSE)
        while True:
            restarts = self._commands.waiting("restart")
            self._live = set(self._registry())
            self._router.start_deliverers(self._live)
            try:
                self._connect(hedged=self._waits)
            except ConnectionFailedError as exc:
                if not self._waits:
                    raise
                self._state.explain(str(exc))
                self._link.close()
                self._commands.end(restarts, exc)
                self._sleep(backoff.pause())
            else:
                self._commands.end(restarts)
                return

    def _connect(self, *, hedged: bool = False) -> None:
        """Make a connection and listen to every live channel on it.

        To those that were added while there was none as well: whoever was told that they
        aren't live yet may take `listening` for the sign that they are.

        Raises:
            ConnectionFailedError: No connection could be made, or it was lost at once.
            ListenRefusedError: The server refused LISTEN, as a standby does.
            NotListeningError: A pooler keeps notifications from coming.
        """
        self._link.session = self._link.connect(hedged=hedged)
        self._leads = False
        try:
            if self._standby is None or self._ask_for_lead(self._standby):
                self._listen()
            else:
                detail = f" as {self._standby.name!r} of PostgreSQL ({self._parameters!r})"
                self._state.become("standby", detail=detail)
        except ConnectionLostError as exc:
            self._link.close()
            raise ConnectionFailedError(
                f"lost the connection to PostgreSQL ({self._parameters!r}) before it answered "
                f"LISTEN: {exc}"
            ) from exc
        except (ListenRefusedError, NotListeningError):
            self._link.close()
            raise

    def _listen(self) -> None:
        """Listen to every live channel, on a connection that has the lead."""
        self._link.listen(self._live | self._commands.channels("listen"))
        self._leads = True
        detail = f" {count(len(self._live), 'channel')} of PostgreSQL ({self._parameters!r})"
        self._state.become("listening", detail=detail)

    def _ask_for_lead(self, standby: Standby) -> bool:
        asked_at = Moment.now()
        return standby.learn(self._link.ask(standby.query), asked_at)

    def _try_to_take_over(self) -> None:
        assert self._standby is not None
        if not self._ask_for_lead(self._standby):
            if (pid := self._standby.vanished) is not None:
                self._end_vanished(self._standby, pid)
            return
        barring = self._bar()
        try:
            self._listen()
        except (ListenRefusedError, NotListeningError) as exc:  # and so the lock is to go
            self._report(barring)
            raise ConnectionLostError(str(exc)) from exc
        except BaseException:
            self._report(barring)
            raise
        logger.info(
            "took over as %r: listening %s",
            self._standby.name,
            count(len(self._live), "channel"),
            extra=about("took_over", standby=self._standby.name, count=len(self._live)),
        )
        self._report(barring, self._find_takeover())

    def _accompany(self, companion: Companion) -> None:
        # Behind a pooler, it would tell of that one's machine alone.
        if self._leads and self._link.session is not None and not self._link.session.is_pooled:
            companion.tend()
        else:
            companion.close()

    def _dismiss(self) -> None:
        if self._companion is not None:
            self._companion.close()

    def _end_vanished(self, standby: Standby, pid: int) -> None:
        logger.warning(
            "the machine of the leader of %r has vanished, as it seems: ending its session, of "
            "process %d",
            standby.name,
            pid,
            extra=about("leader_vanished", standby=standby.name, pid=pid),
        )
        try:
            self._link.ask(standby.terminate(pid))
        except ListenRefusedError as exc:  # of another role
            logger.warning(
                "that isn't allowed; PostgreSQL will end it some time: %s",
                exc,
                extra=about("leader_stays", standby=standby.name, error=type(exc).__name__),
            )

    def _find_takeover(self) -> Gap | None:
        """Return the gap between another listener's lead and ours, if there is one."""
        since = self._standby.take_over() if self._standby is not None and self._leads else None
        missed = self._wanted()
        if since is None or not missed:
            return None
        return Gap(*stretch(since, Moment.now()), missed, "another listener led before")

    # --- gaps ---

    def _bar(self) -> GapHold:
        """Hold back what will come from now on, until it is known what was missed."""
        if self._report_gap.is_full and self._barring.awaits_users:
            return self._barring  # behind which everything waits as it is
        barring = self._barring = GapHold()  # of deliverers that are made meanwhile as well
        for deliverer in self.deliverers.values():
            barring.bar(deliverer)
        return barring

    def _bar_too(self, deliverer: Deliverer) -> None:
        """Hold back what comes for a deliverer that has just been made, if for others it is."""
        self._barring.bar(deliverer)

    def _report(self, barring: GapHold, *found: Gap | None) -> None:
        """Report gaps, and have the rest delivered once the users know of the last of them."""
        gaps = [gap for gap in found if gap is not None]
        if gaps:
            barring.tell(gaps, self._deliveries)
            for gap in gaps[:-1]:
                self._report_gap(gap)
            self._report_gap(gaps[-1], barring.lift)
        elif not barring.awaits_users:
            barring.lift()

    def _deliveries(
        self, gaps: Iterable[Gap], dispatcher: Dispatcher | None = None
    ) -> list[Delivery]:
        """Return what subscriptions get that are told of gaps, those of a dispatcher or all."""
        registry = self._registry()
        return [
            Delivery(binding.on_gap, gap.to_notification(channel))
            for gap in gaps
            for channel in sorted(gap.channels)
            for by, bindings in registry.lanes(channel)
            if dispatcher is None or by is dispatcher
            for binding in bindings
            if binding.on_gap is not None
        ]

    def _wanted(self) -> frozenset[str]:
        """Return the live channels that nobody has removed meanwhile."""
        return frozenset(self._live - self._commands.channels("unlisten"))

    def _recover(self, reason: str) -> None:
        """Connect again, for as long as it takes, and report what may have been missed.

        A restart that was asked for meanwhile has the next try made at once, listening to
        what the registry holds by then, and gets the try's outcome.

        Args:
            reason: Why this has to be.
        """
        missed = self._wanted() if self._leads else frozenset[str]()
        since = self._link.proven_at
        backoff = Backoff(LONGEST_PAUSE)
        self._state.become("disconnected", f"lost the connection to PostgreSQL: {reason}")
        self._link.drain_rest()
        self._dismiss()
        self._link.close()
        barring = self._bar()
        while True:
            self._sleep(backoff.pause())
            restarts = self._commands.waiting("restart")
            if restarts:
                self._live = set(self._registry())
            try:
                self._connect(hedged=True)
            except StoppingError:
                raise
            except Exception as exc:
                defect = not isinstance(exc, PgNotifierError)
                extra = about("not_back", error=type(exc).__name__)
                logger.info("not back yet: %s", exc, exc_info=defect, extra=extra)
                self._state.explain(str(exc))
                self._link.close()
                self._commands.end(restarts, exc)
            else:
                break
        self.reconnects += 1
        gap = Gap(*stretch(since, Moment.now()), missed, reason) if missed else None
        self._report(barring, gap, self._find_takeover())
        self._commands.end(restarts)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless or until a restart is asked for."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._commands.waiting("restart"):
            self._link.wait(left)
