"""The life of a notifier's listener: starting, waiting for the server, restarting, stopping."""

import logging
from functools import partial
from time import monotonic
from typing import Protocol

from pgnotifier._connection.publisher import Publisher
from pgnotifier._health.health_server import HealthServer
from pgnotifier._listener.listener import Listener
from pgnotifier._notifier.attachments import Attachments
from pgnotifier._notifier.listener_factory import DecodingOwner, ListenerFactory
from pgnotifier._runtime import process
from pgnotifier._runtime.log_records import about, count, duration
from pgnotifier._runtime.sync import ChangeLock, Gate, Outcome
from pgnotifier.dispatch import Binding
from pgnotifier.errors import ConnectionFailedError, NotifierStoppedError, NotLiveError

logger = logging.getLogger("pgnotifier.notifier")

STOP_TIMEOUT = 5.0
"""Seconds that `stop()` may take."""
LIVE_TIMEOUT = 30.0
"""Seconds that a change waits for the server's confirmation while the connection is down."""


class Owner(process.Runner, DecodingOwner, Protocol):
    """What a lifecycle has to know of its notifier."""

    def check_configured(self) -> None: ...
    def start(self) -> None: ...


class Lifecycle:
    """Starts listeners for a notifier, one after another, and stops them.

    Any thread may call any method.

    Attributes:
        lock: Guards the writing of `listener` and of the notifier's registry. It is never held
            while waiting for the server, or while calling a dispatcher.
        listener: The listener that was started last; None when it has been stopped.
        startup_wait: What `Notifier(wait=)` takes.
    """

    def __init__(
        self,
        owner: Owner,
        factory: ListenerFactory,
        attachments: Attachments,
        publisher: Publisher,
        health: HealthServer | None,
        startup_wait: bool | float | None,
    ) -> None:
        """Take the parts that start and end with a listener; nothing is started yet.

        Args:
            owner: The notifier.
            factory: Makes the listeners.
            attachments: The dispatchers, which are opened before a listener starts.
            publisher: The connection of `notify()`, which is closed when the notifier stops.
            health: Answers probes while a listener runs, if given.
            startup_wait: What `Notifier(wait=)` takes.
        """
        self.lock = ChangeLock()
        self.listener: Listener | None = None
        self.startup_wait = startup_wait
        self._owner = owner
        self._factory = factory
        self._attachments = attachments
        self._publisher = publisher
        self._health = health
        self._stopped = Gate()

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

    def start(self) -> None:
        """Start a listener unless one runs, and wait until it listens: see `Notifier.start`."""
        if self.lock.puts_off(self.start):
            return
        listener = self._started_listener()
        if self.is_awaited_by(listener):
            return
        try:
            if not listener.ready.wait(self._longest_wait):
                self._give_up(listener)
            listener.ready.result()
        except BaseException:
            with self.lock:
                if self.listener is listener and not listener.is_alive:
                    self._ended()
            raise

    def begin(self) -> None:
        """Start a listener unless one runs, and don't wait for it."""
        if not self.lock.puts_off(self.begin):
            self._started_listener()

    def restart(self) -> None:
        """Have the listener replace its connection; start one if none runs."""
        if self.lock.puts_off(self.restart):
            return
        with self.lock:
            listener = self.running
            done = listener.request("restart") if listener is not None else None
        if done is None:
            self._owner.start()
        else:
            self.confirm(done)

    def stop(self, timeout: float) -> int:
        """Stop the listener: see `Notifier.stop`.

        Args:
            timeout: Seconds that it may take.

        Returns:
            How many deliveries were given up.
        """
        if self.lock.puts_off(partial(self.stop, timeout)):
            return 0
        undelivered, deadline = 0, monotonic() + timeout
        with self.lock:  # wait for a `start` that is about to create the listener
            listener = self.listener
        if listener is not None:
            undelivered = self._stop_listener(listener, timeout)
        self._publisher.close()
        self._factory.report_state.settle(max(0.0, deadline - monotonic()))
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
            state = self._factory.report_state.current.state
            listener = self.listener
            full = listener is not None and any(d.full for d in listener.deliverers.values())
            raise NotLiveError(
                f"the server has not confirmed within {LIVE_TIMEOUT:g} s (state: {state}"
                f"{', a buffer is full' if full else ''}); the change is registered, and becomes "
                "live when the server confirms it"
            )
        done.result()

    def is_awaited_by(self, listener: Listener) -> bool:
        """Return whether the calling code must not wait for a listener that waits for it."""
        return self.lock.is_catching_up or listener.waits_for_caller()

    def note_heir(self, binding: Binding) -> None:
        """Have what waits for a binding handed on to its heir."""
        listener = self.listener
        deliverer = None if listener is None else listener.deliverers.get(binding.dispatcher)
        if deliverer is not None:
            deliverer.succession.note(binding)

    def forget_in_child(self) -> None:
        """Forget the parent's lock, listener and port in a forked child."""
        self.lock = ChangeLock()
        self._stopped.open()
        if self._health is not None:
            self._health.forget_in_child()
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.forget_in_child()

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
                    listener = self.listener = self._factory.make(waits=bool(self.startup_wait))
                    self._stopped = Gate()
                    process.hold(self._owner)
                    break
            if listener.waits_for_caller():
                raise NotifierStoppedError("the notifier is still stopping; start it afterwards")
            listener.ended.wait()
        self._launch(listener)
        return listener

    def _launch(self, listener: Listener) -> None:
        """Start a listener without the lock, as dispatchers and log handlers are user code."""
        try:
            self._attachments.open_all()
            if self._health is not None:
                self._health.start()
            listener.start()
        except BaseException as exc:
            interrupted = NotifierStoppedError("starting was interrupted")
            listener.abort(exc if isinstance(exc, Exception) else interrupted)
            with self.lock:
                if self.listener is listener:
                    self._ended()
            raise
        with self.lock:  # a `stop()` in between has found no open port to close
            if self.listener is None and self._health is not None:
                self._health.stop()

    def _give_up(self, listener: Listener) -> None:
        """Stop a listener that hasn't connected in time."""
        why = self._factory.report_state.current.why
        if listener.ready.is_open:
            return
        listener.stop(STOP_TIMEOUT)
        waited = duration(self._longest_wait or 0.0)
        reason = why or f"no answer from PostgreSQL ({self._factory.parameters!r})"
        raise ConnectionFailedError(f"not connected within {waited}: {reason}")

    def _stop_listener(self, listener: Listener, timeout: float) -> int:
        undelivered = listener.stop(timeout)
        if undelivered:
            logger.error(
                "stopped with %s undelivered after %s",
                count(undelivered, "notification"),
                duration(timeout),
                extra=about("undelivered", count=undelivered),
            )
        if not self._owner.daemon:
            for thread in listener.delivering_here():
                process.see_out(thread)
        with self.lock:
            if self.listener is listener:
                self._ended()
        return undelivered

    def _ended(self) -> None:
        self.listener = None
        if self._health is not None:
            self._health.stop()
        process.release(self._owner)
        self._stopped.open()
