"""The life of a notifier's listener: starting, waiting for the server, restarting, stopping."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, NamedTuple, Protocol

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.publisher import Publisher
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.readiness import Probes
from pgnotifier._delivery.reports import ErrorReport, GapReport
from pgnotifier._durable.payload_reader import PayloadReader
from pgnotifier._durable.sources import Sources
from pgnotifier._health.health_server import HealthServer
from pgnotifier._inquiry.answering import Answering  # noqa: TC001
from pgnotifier._listener.listener import Listener, Settings
from pgnotifier._listener.state import StateReport
from pgnotifier._notifier.attachments import Attachments
from pgnotifier._registry.writer import Registrar
from pgnotifier._runtime import process
from pgnotifier._runtime.log_records import about, count, duration
from pgnotifier._runtime.sync import ChangeLock, Gate, Outcome, may_be_put_off
from pgnotifier._runtime.tracing import FindTracing, find_all
from pgnotifier.dispatch import Binding, Dispatcher
from pgnotifier.errors import (
    ConnectionFailedError,
    LogNotInstalledError,
    LogRefusedError,
    NotifierStoppedError,
    NotListeningError,
    NotLiveError,
)

logger = logging.getLogger("pgnotifier.notifier")

STOP_TIMEOUT = 5.0
"""Seconds that `stop()` may take."""
READING_PATIENCE = 6
"""How many times the timeout of a heartbeat a query of the durable log may take."""
LIVE_TIMEOUT = 30.0
"""Seconds that a change waits for the server's confirmation while the connection is down."""


class Owner(process.Runner, Protocol):
    """What a lifecycle has to know of its notifier."""

    decoder: Callable[[str], Any]
    standby: str | None

    def check_configured(self) -> None: ...
    def start(self) -> None: ...


class Reports(NamedTuple):
    """What a notifier reports, to the log and to the user's hooks.

    Attributes:
        errors: Failed deliveries, to `on_error`.
        gaps: Gaps, to `on_gap`.
        states: Changes of its state, to `on_state`.
    """

    errors: ErrorReport
    gaps: GapReport
    states: StateReport


class Lifecycle:
    """Starts listeners for a notifier, one after another, and stops them.

    Any thread may call any method.

    Attributes:
        lock: Guards the writing of `listener` and of the notifier's registry. It is never held
            while waiting for the server, or while calling a dispatcher.
        listener: The listener that was started last; None when it has been stopped.
        parameters: Where to connect.
        reports: What is reported.
        settings: How the next listener listens, and the bounds of its buffers.
        startup_wait: What `Notifier(wait=)` takes.
        attachments: The dispatchers, which are opened before a listener starts.
        publisher: The connection of `notify()`, which is closed when the notifier stops.
        payloads: Reads what references stand for, on a connection that is closed then, too.
        registrar: Holds the registry.
        durable_registrar: Holds the registry of durable subscriptions.
        sources: What reads the log for the listener's deliverers.
        probes: Checks the dispatchers.
        answering: Answers questions; None if it doesn't.
        health: Answers probes while a listener runs.
        tracers: Return what makes spans, by the library that they are for.
    """

    def __init__(
        self,
        owner: Owner,
        parameters: Parameters,
        default: Dispatcher,
        reports: Reports,
        settings: Settings,
        health: HealthServer,
        startup_wait: bool | float | None,
    ) -> None:
        """Make the parts that a listener works with. Nothing is started, no dispatcher attached.

        Args:
            owner: The notifier.
            parameters: Where to connect.
            default: The notifier's own dispatcher.
            reports: What is reported.
            settings: How to listen, and the bounds of buffers.
            health: Answers probes while a listener runs.
            startup_wait: What `Notifier(wait=)` takes.
        """
        self.lock = ChangeLock()
        self.listener: Listener | None = None
        self.parameters = parameters
        self.reports = reports
        self.settings = settings
        self.startup_wait = startup_wait
        self.attachments = Attachments(owner, default)
        self.publisher = Publisher(parameters)
        patience = READING_PATIENCE * settings.heartbeat_timeout
        self.payloads = PayloadReader(parameters, patience)
        self.registrar = Registrar(reports.errors, self._note_successor)
        self.durable_registrar = Registrar(reports.errors, self._note_successor)
        self.sources: Sources | None = None
        self.probes = Probes()
        self.answering: Answering | None = None
        self.tracers: dict[str, FindTracing] = {}
        self._readings: Sequence[Outcome] = ()
        self._owner = owner
        self.health = health
        self._stopped = Gate()
        process.renew_in_children(self)

    @property
    def running(self) -> Listener | None:
        """The listener that runs, connected or not; None if there is none."""
        listener = self.listener
        return listener if listener is not None and listener.is_alive else None

    def is_running(self) -> bool:
        """Return whether a listener runs, connected or not."""
        return self.running is not None

    def is_starting(self) -> bool:
        """Return whether a listener is still trying to connect for the first time."""
        listener = self.running
        return listener is not None and not listener.ready.is_open

    def take_unused(self) -> set[Dispatcher]:
        """Return the dispatchers that have lost their last subscription since the last call."""
        both = (self.registrar, self.durable_registrar)
        taken = set().union(*(one.take_unused() for one in both))
        return {one for one in taken if not any(each.uses(one) for each in both)}

    @may_be_put_off
    def start(self) -> None:
        """Start a listener unless one runs, and wait until it listens: see `Notifier.start`."""
        listener = self._started_listener()
        if self.is_awaited_by(listener):
            return
        try:
            if not listener.ready.wait(self._longest_wait):
                self._give_up(listener)
            listener.ready.result()
            self._await_sources(listener)
        except BaseException:
            with self.lock:
                if self.listener is listener and not listener.is_alive:
                    self._ended()
            raise

    def _await_sources(self, listener: Listener) -> None:
        """Wait until durable subscriptions have a position; stop if the log can't be read."""
        for one in self._readings:
            one.wait(self._longest_wait)
            try:
                if one.is_open:
                    one.result()
            except (LogNotInstalledError, LogRefusedError, NotListeningError):
                if self.listener is listener:
                    self.stop(STOP_TIMEOUT)
                raise

    @may_be_put_off
    def begin(self) -> None:
        """Start a listener unless one runs, and don't wait for it."""
        self._started_listener()

    @may_be_put_off
    def restart(self) -> None:
        """Have the listener replace its connection; start one if none runs."""
        with self.lock:
            listener = self.running
            done = listener.request("restart") if listener is not None else None
            if done is not None and self.sources is not None:
                self.sources.reconnect()
        if done is None:
            self._owner.start()
        else:
            self.confirm(done)

    @may_be_put_off
    def stop(self, timeout: float) -> int:
        """Stop the listener: see `Notifier.stop`.

        Args:
            timeout: Seconds that it may take.

        Returns:
            How many deliveries were given up.
        """
        undelivered, deadline = 0, monotonic() + timeout
        with self.lock:  # wait for a `start` that is about to create the listener
            listener = self.listener
        if listener is not None:
            undelivered = self._stop_listener(listener, timeout)
        self.publisher.close()
        self.payloads.close()
        if self.answering is not None:
            self.answering.close(max(0.0, deadline - monotonic()))
        self.reports.states.settle(max(0.0, deadline - monotonic()))
        return undelivered

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the listener has stopped, for so many seconds at most; return whether."""
        listener = self.listener
        return listener is None or listener.has_failed or self._stopped.wait(timeout)

    def confirm(self, done: Outcome) -> None:
        """Wait until the listener has done what it was asked for.

        Args:
            done: What `Listener.request` has returned.

        Raises:
            NotLiveError: It takes more than 30 s.
            PgNotifierError: It failed.
        """
        listener = self.listener
        if listener is not None and self.is_awaited_by(listener):
            return  # the change becomes live when the calling code is done
        if not done.wait(LIVE_TIMEOUT):
            state = self.reports.states.current.state
            listener = self.listener
            full = listener is not None and any(d.buffer.full for d in listener.deliverers.values())
            raise NotLiveError(
                f"the server has not confirmed within {LIVE_TIMEOUT:g} s (state: {state}"
                f"{', a buffer is full' if full else ''}); the change is registered, and becomes "
                "live when the server confirms it"
            )
        done.result()

    def is_awaited_by(self, listener: Listener) -> bool:
        """Return whether the calling code must not wait for a listener that waits for it."""
        reads = self.sources is not None and self.sources.is_reading_here()
        return self.lock.is_catching_up or reads or listener.waits_for_caller()

    def renew(self) -> None:
        """Have no listener in a forked child: the parent's, its threads and its port stay there."""
        self.lock = ChangeLock()
        self._stopped.open()
        self.health.forget_in_child()
        listener, self.listener = self.listener, None
        if self.sources is not None:
            self.sources.forget_in_child()
        if listener is not None:
            listener.forget_in_child()
        self.probes = Probes()
        self.attachments.forget_in_child()

    @property
    def _longest_wait(self) -> float | None:
        wait = self.startup_wait
        return None if not wait or wait is True else float(wait)

    def _started_listener(self) -> Listener:
        """Return the listener that runs, or a new one when the previous one has ended.

        Two that listen at the same time would deliver everything twice.
        """
        if not self.is_running():
            self._owner.check_configured()
        while True:
            with self.lock:
                listener = self.listener
                if listener is not None and listener.is_alive:
                    return listener
                if listener is None or listener.ended.is_open:
                    listener = self.listener = self._make_listener()
                    self._stopped = Gate()
                    process.running.add(self._owner)
                    break
            if listener.waits_for_caller():
                raise NotifierStoppedError("the notifier is still stopping; start it afterwards")
            listener.ended.wait()
        self._launch(listener)
        return listener

    def _make_listener(self) -> Listener:
        """Return a listener with the settings as they are now; it isn't running yet."""
        if self.sources is not None:
            self.sources.stop(monotonic())  # those of a listener that has failed
        listener = Listener(
            self.parameters,
            lambda: self.registrar.registry,
            self._make_deliverer,
            self.reports.gaps,
            self.reports.states,
            replace(self.settings, standby=self._owner.standby, waits=bool(self.startup_wait)),
            self.answering,
        )
        self.sources = Sources(
            self.parameters,
            lambda: self.durable_registrar.registry,
            listener.router.deliverer_for,
            READING_PATIENCE * self.settings.heartbeat_timeout,
            self.reports.gaps.report_dropped,
        )
        self._readings = []
        return listener

    def _make_deliverer(self, dispatcher: Dispatcher, on_room: Callable[[], None]) -> Deliverer:
        if (tracing := find_all(self.tracers.values())) is not None:
            dispatcher.tracing = tracing
        return Deliverer(
            dispatcher,
            decode=self._owner.decoder,
            size=self.settings.buffer_size,
            max_bytes=self.settings.buffer_bytes,
            overflow=self.settings.overflow,
            on_room=on_room,
            find_payload=self.payloads.read,
            owner=self._owner,
        )

    def _note_successor(self, binding: Binding) -> None:
        """Have what waits for a binding handed on to its successor."""
        listener = self.listener
        deliverer = None if listener is None else listener.deliverers.get(binding.dispatcher)
        if deliverer is not None:
            deliverer.succession.note(binding)

    def _launch(self, listener: Listener) -> None:
        """Start a listener without the lock, as dispatchers and log handlers are user code."""
        try:
            self.attachments.open_all()
            self.health.start()
            listener.start()
            if self.sources is not None:
                self._readings = self.sources.start()
        except BaseException as exc:
            interrupted = NotifierStoppedError("starting was interrupted")
            listener.end(exc if isinstance(exc, Exception) else interrupted)
            with self.lock:
                if self.listener is listener:
                    self._ended()
            raise
        with self.lock:  # a `stop()` in between has found no open port to close
            if self.listener is None:
                self.health.stop()

    def _give_up(self, listener: Listener) -> None:
        """Stop a listener that hasn't connected in time."""
        why = self.reports.states.current.why or f"no answer from PostgreSQL ({self.parameters!r})"
        if listener.ready.is_open:
            return
        listener.stop(STOP_TIMEOUT)
        waited = duration(self._longest_wait or 0.0)
        raise ConnectionFailedError(f"not connected within {waited}: {why}")

    def _stop_listener(self, listener: Listener, timeout: float) -> int:
        began, sources = monotonic(), self.sources
        if sources is not None:
            sources.stop(began + timeout)
        undelivered = listener.stop(timeout)
        if sources is not None:
            sources.finish(began + timeout)
        if undelivered:
            lasted, left = duration(monotonic() - began), count(undelivered, "notification")
            extra = about("undelivered", count=undelivered)
            logger.error("stopped with %s undelivered after %s", left, lasted, extra=extra)
        if not self._owner.daemon:
            process.finishing.update(listener.delivering_here())
            process.finishing.update(sources.delivering_here() if sources is not None else ())
        with self.lock:
            if self.listener is listener:
                self._ended()
        return undelivered

    def _ended(self) -> None:
        self.listener = None
        if self.sources is not None:
            self.sources.stop(monotonic())
        self.health.stop()
        process.running.discard(self._owner)
        self._stopped.open()
