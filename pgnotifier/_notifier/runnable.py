"""The methods of `Notifier` that start it, stop it, check it, describe it, and notify."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

from pgnotifier._connection.parameters import Parameters
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.totals import Totals
from pgnotifier._log.positions import find_names
from pgnotifier._notifier.durable_changes import in_log
from pgnotifier._notifier.lifecycle import STOP_TIMEOUT, Lifecycle
from pgnotifier._payload.plain import Encoder
from pgnotifier._registry.checks import check_channel
from pgnotifier._runtime import process
from pgnotifier._runtime.aside import NoThreadError, call_aside
from pgnotifier._runtime.tracing import FindTracing
from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import ConnectionFailedError
from pgnotifier.settings import check_settings
from pgnotifier.status import DispatcherStatus, Status


class Runnable:
    """The part of `Notifier` that changes no channels and no subscriptions."""

    standby: str | None
    """The name of the group of notifiers in which only one listens: `Notifier(standby=…)`."""
    _lifecycle: Lifecycle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        # Ctrl-C ends the program at once, and doesn't wait until a slow queue has taken the rest.
        interrupted = exc_type is not None and issubclass(exc_type, KeyboardInterrupt)
        self.stop(process.EXIT_TIMEOUT if interrupted else STOP_TIMEOUT)

    async def __aenter__(self) -> Self:
        """Start without blocking the event loop: see `start()`."""
        self._lifecycle.attachments.open_all()
        starting = _await_aside(self.start)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await self._stop_aside()
            await asyncio.wait([starting])
            starting.exception()  # or asyncio would log that nobody has looked at it
            raise
        except NoThreadError as exc:
            raise ConnectionFailedError(f"can't listen: {exc}") from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop without blocking the event loop: see `stop()`."""
        await self._stop_aside()

    async def _stop_aside(self) -> None:
        try:
            await _await_aside(self.stop)
        except NoThreadError:  # so the event loop has to wait
            self.stop()

    def start(self) -> None:
        """Connect, and return when every registered channel is listened to.

        A no-op if the notifier is running. From now on a lost connection is replaced for as long
        as it takes. With `Notifier(wait=…)` that includes the first one: `status()` and the log
        then say why there is none yet, and `stop()` on another thread ends the wait.

        Raises:
            ConnectionFailedError: No connection could be made, or not within `wait` seconds.
            ListenRefusedError: The server refused LISTEN, as a standby server does.
            NotListeningError: Nothing arrives, because of a connection pooler.
            ConfigurationError: There are no connection parameters, or `health_port` is in use.
            NotifierStoppedError: `stop()` was called meanwhile.
        """
        self._lifecycle.start()

    def begin(self) -> None:
        """Begin to start, and return at once. Then `start()` waits for what this began.

        Raises:
            ConfigurationError: As for `start()`.
        """
        self._lifecycle.begin()

    def is_starting(self) -> bool:
        """Return whether it was started, and has not connected yet."""
        return self._lifecycle.is_starting()

    def run(self) -> None:
        """Start, without blocking either: the same as `start()`."""
        self.start()

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Stop listening, deliver what was received, and disconnect. A no-op if not running.

        It returns in time, whatever the server, a queue or a callback does. A callback that calls
        it doesn't wait for its own dispatcher, which delivers the rest when the callback is done.

        Args:
            timeout: Seconds that it may take. What isn't delivered by then is given up and logged.

        Returns:
            How many deliveries were given up.
        """
        return self._lifecycle.stop(timeout) or 0

    def check_configured(self) -> None:
        """Check what would prevent a start, whatever the server says.

        Raises:
            ConfigurationError: There are no connection parameters.
        """
        self._lifecycle.parameters.check()

    def restart(self) -> None:
        """Move to a new connection, and listen to what is registered now; start if not running.

        Nothing is missed or delivered twice: the old connection is read until the new one listens.
        A gap is reported only if the new connection leads to another server, or if a connection
        is lost meanwhile.

        Raises:
            ConnectionFailedError: No connection could be made. A notifier that is running keeps the
                old connection, or keeps trying if it has none.
            NotLiveError: It takes more than 30 s, and goes on.
            PgNotifierError: Whatever else `start` raises.
        """
        self._lifecycle.restart()

    def is_running(self) -> bool:
        """Return whether the notifier was started and not stopped, connected or not."""
        return self._lifecycle.is_running()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the notifier has stopped.

        Args:
            timeout: Seconds to wait at most. Default: no limit.

        Returns:
            Whether it has stopped.
        """
        return self._lifecycle.wait(timeout)

    def status(self) -> Status:
        """Return what the notifier is doing, and what it has done."""
        return _describe(self._lifecycle)

    def readiness_problems(self) -> list[str]:
        """Return why the notifier isn't ready; an empty list if it is.

        It is ready if it is listening or standing by, each dispatcher reaches its queue within 5 s,
        and, if it has durable subscriptions, the durable log can be read, and no entry has waited
        for longer than `max_age`.
        """
        current = self._lifecycle.reports.states.current
        problems = self._lifecycle.probes.readiness_problems(tuple(self._lifecycle.attachments))
        if current.state not in ("listening", "standby"):
            since = current.since.isoformat(timespec="seconds")
            problems.insert(0, f"{current.state} since {since}")
        sources = self._lifecycle.sources
        return problems + (sources.find_problems() if sources is not None else [])

    def find_durable(self, channel: str) -> list[str]:
        """Return the ids of the durable subscriptions to a channel, the oldest first.

        They are those that the database knows, whoever runs them.

        Raises:
            ConnectionFailedError: No connection could be made.
            LogNotInstalledError: The database has no durable log.
            LogRefusedError: This role may not read it.
        """
        step = partial(find_names, channel=channel)
        return in_log(self._lifecycle.parameters, step)

    def notify(self, channel: str, payload: Any = "", encoder: Encoder | None = None) -> None:
        """Send a notification, in its own transaction on its own connection.

        Args:
            channel: The channel to send it on.
            payload: The value. What JSON or a Python literal can express arrives with the same
                type. Dates, times, Decimal and UUID arrive as a str, an Enum as its value, and a
                dataclass as a dict.
            encoder: Returns a replacement for a value of another type: see `payload.encode`.

        Raises:
            ChannelNameError: PostgreSQL has no such channel.
            PayloadEncodingError: The value can't be a payload.
            PayloadTooLargeError: The payload has over 7,999 bytes. Nothing was sent.
            ConnectionFailedError: There is no connection, or it was lost meanwhile.
            NotifyRefusedError: The server refused: its queue is full, say.
        """
        self._lifecycle.publisher.notify(check_channel(channel), payload, encoder)

    @property
    def parameters(self) -> Parameters:
        """The connection parameters. Their repr shows no password."""
        return self._lifecycle.parameters

    def trace_with(self, library: str, find_tracing: FindTracing) -> None:
        """Have spans made of what is delivered from the next start on. For integrations.

        Args:
            library: What they are made for. There may be several; the latest call for each counts.
            find_tracing: Returns what makes them, or None. It is called for each dispatcher.
        """
        self._lifecycle.tracers[library] = find_tracing

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """The dispatchers in use, the notifier's own one first."""
        attachments = self._lifecycle.attachments
        return list(dict.fromkeys([attachments.default, *attachments]))

    @property
    def has_health_port(self) -> bool:
        """Whether it answers probes itself: `Notifier(health_port=…)`."""
        return self._lifecycle.health.has_port

    @property
    def startup_wait(self) -> bool | float | None:
        """Whether `start()` waits for a server that can't be reached: `Notifier(wait=…)`."""
        return self._lifecycle.startup_wait

    @startup_wait.setter
    def startup_wait(self, wait: bool | float | None) -> None:
        check_settings(wait=wait)
        self._lifecycle.startup_wait = wait


def _await_aside(method: Callable[[], Any]) -> "asyncio.Future[Any]":
    # Not by `asyncio.to_thread`: its pool has few threads, which may all be busy, and it would call
    # the method later if no thread can be started now.
    return asyncio.wrap_future(call_aside(f"pgnotifier-{method.__name__}", method))


def _describe(lifecycle: Lifecycle) -> Status:
    """Return the status of a notifier: see `Notifier.status`."""
    listener, reports = lifecycle.listener, lifecycle.reports
    registry, durable = lifecycle.registrar.registry, lifecycle.durable_registrar.registry
    sources = lifecycle.sources if listener is not None else None
    deliverers = tuple(listener.deliverers.values()) if listener is not None else ()
    totals = (Totals() if listener is None else listener.router.ended).plus(deliverers)
    current = reports.states.current
    return Status(
        state=current.state,
        since=current.since,
        why=_why_paused(deliverers) if current.state == "listening" else current.why,
        connection=repr(lifecycle.parameters),
        channels=len({*registry, *durable}),
        subscriptions=sum(len(list(r.bindings(name))) for r in (registry, durable) for name in r),
        received=listener.router.received if listener is not None else 0,
        channel_counts=listener.router.counts() if listener is not None else {},
        errors=reports.errors.count,
        reconnects=listener.listening.reconnects if listener is not None else 0,
        latency=listener.connection.round_trips.latency if listener is not None else None,
        queue_usage=listener.queue_usage.usage if listener is not None else None,
        gaps=reports.gaps.count,
        last_gap=reports.gaps.last,
        dispatchers=tuple(map(_describe_dispatcher, deliverers)),
        durable=sources.describe() if sources is not None else (),
        log=sources.log_state() if sources is not None else None,
        gap_seconds=reports.gaps.seconds,
        delivered_counts=totals.delivered,
        dropped_counts=totals.dropped,
    )


def _describe_dispatcher(deliverer: Deliverer) -> DispatcherStatus:
    return DispatcherStatus(
        name=deliverer.name,
        waiting=deliverer.waiting,
        delivered=deliverer.delivered,
        dropped=deliverer.buffer.dropped,
        full=deliverer.buffer.full,
        retrying=deliverer.retrying,
        since=deliverer.trouble.since,
        why=deliverer.trouble.why,
        details=deliverer.dispatcher.details(),
        waiting_bytes=deliverer.buffer.size,
    )


def _why_paused(deliverers: Iterable[Deliverer]) -> str | None:
    """Return why a connected listener reads nothing; None if it reads."""
    for one in deliverers:
        if one.buffer.full:
            since = one.trouble.since
            shown = f" since {since.isoformat(timespec='seconds')}" if since is not None else ""
            why = f": {one.trouble.why}" if one.trouble.why else ""
            return f"nothing is read{shown}, as the buffer of {one.name} is full{why}"
    return None
