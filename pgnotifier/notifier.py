"""Notifier: the one object that a user holds."""

import asyncio
import logging
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from pgnotifier._connection.parameters import Parameters, Supply, make_parameters
from pgnotifier._connection.publisher import Publisher
from pgnotifier._delivery.buffer import BUFFER_BYTES, Overflow
from pgnotifier._delivery.deliverer import Deliverer, called_by_callback
from pgnotifier._delivery.readiness import Probes
from pgnotifier._delivery.reports import ErrorReport, GapReport, OnError, OnGap
from pgnotifier._health.health_server import HealthServer
from pgnotifier._listener.listener import Listener, Settings
from pgnotifier._listener.state import StateReport
from pgnotifier._payload.substitutes import Encoder
from pgnotifier._registry.checks import check_channel, check_channels, check_id
from pgnotifier._registry.registry import Registry
from pgnotifier._registry.writer import Change, Claim, Registrar
from pgnotifier._runtime import process as lifetime
from pgnotifier._runtime.autostart import are_starts_held
from pgnotifier._runtime.log_records import about, count, duration
from pgnotifier._runtime.sync import ChangeLock, Gate, Outcome
from pgnotifier.dispatch import Binding, Dispatcher, Subscription
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.errors import (
    ArgumentTypeError,
    ConnectionFailedError,
    ListenRefusedError,
    NotifierStoppedError,
    NotLiveError,
)
from pgnotifier.gathering import check_gathering
from pgnotifier.payload import decode
from pgnotifier.settings import check_settings
from pgnotifier.status import DispatcherStatus, OnState, Status

logger = logging.getLogger("pgnotifier.notifier")

STOP_TIMEOUT = 5.0
"""Seconds that `stop()` may take."""
LIVE_TIMEOUT = 30.0
"""Seconds that a change waits for the server's confirmation while the connection is down."""

Fn = TypeVar("Fn", bound=Callable[..., object])


class Notifier:
    """Hears channels of a PostgreSQL database and delivers what comes to subscriptions.

        with Notifier("postgresql://localhost/shop") as notifier:
            notifier.subscribe("resize", "image_uploaded", resize)
            ...

    Every method may be called by any thread, callbacks included. `_lock` guards the writing
    of `_registrar` and `_listener`; it is never held while waiting for the server.
    """

    def __init__(
        self,
        db_conf: Mapping[str, Any] | str | Supply | Parameters | None,
        *,
        dispatcher: Dispatcher | None = None,
        autorun: bool | None = None,
        daemon: bool = False,
        decoder: Callable[[str], Any] = decode,
        on_error: OnError | None = None,
        on_gap: OnGap | None = None,
        on_state: OnState | None = None,
        heartbeat: float = 15.0,
        heartbeat_timeout: float = 5.0,
        buffer_size: int = 100_000,
        buffer_bytes: int = BUFFER_BYTES,
        overflow: Overflow = "block",
        standby: str | None = None,
        health_port: int | None = None,
        health_host: str | None = None,
        wait: bool | float | None = None,
    ) -> None:
        """Take the settings; nothing is connected yet.

        Args:
            db_conf: A dict of libpq parameters (`port` as int or str), a conninfo string, or
                a URI: https://www.postgresql.org/docs/current/libpq-connect.html. Or a callable
                that returns one of these, called for each connection, on whatever thread makes
                it: for credentials that rotate. With None, as of a variable that isn't set
                here, whatever needs a connection raises a ConfigurationError.
            dispatcher: Delivers to subscriptions that name none of their own. Default: an
                `InlineDispatcher`, which calls them in this process.
            autorun: Whether `autorun=True` in the methods starts a notifier that isn't
                running. Default: unless a dispatcher to a queue is used, whose modules are
                imported by workers, too.
            daemon: Whether the process may end while this notifier runs.
            decoder: Makes a payload's Python value of its text. Default:
                `pgnotifier.payload.decode`.
            on_error: Called as `on_error(exc, subscription, notification)` for each delivery
                that failed, by the thread it failed in.
            on_gap: Called with each `Gap`, on a thread of its own, once all channels are
                heard again. What came since is delivered when it has returned, so that it
                may read anew what notifications would have told.
            on_state: Called with each `StateChange`, on a thread of its own.
            heartbeat: Seconds without a notification after which an idle connection is tried,
                by a notification to itself.
            heartbeat_timeout: Seconds within which that has to arrive; else the connection is
                taken for dead, and made anew.
            buffer_size: How many notifications may wait for one dispatcher.
            buffer_bytes: How many bytes their payloads may have together.
            overflow: What to do with more: `block` (stop reading, so that PostgreSQL's queue
                holds the rest), `drop_oldest` or `drop_newest`, which report a gap.
            standby: A name. Of all notifiers with this name in the database, one listens, and
                the others take over when its connection ends. Default: none, each listens.
            health_port: Where `/healthz` and `/readyz` are answered over HTTP while it runs.
                Default: nowhere.
            health_host: The address of that port: `0.0.0.0` or `::` for all of the machine's.
                Default: 127.0.0.1, so that only this machine's probes reach it.
            wait: Whether `start()` tries on while no connection can be made, as when the server
                isn't up yet: True for as long as it takes, or for how many seconds. Default: it
                doesn't; commands, such as `pgnotifier listen`, do.

        Raises:
            ArgumentTypeError: `db_conf`, a callable or the dispatcher is of another type.
            ConfigurationError: A connection parameter that doesn't exist, or another value
                that can't be.
        """
        check_settings(
            buffer_size=buffer_size,
            buffer_bytes=buffer_bytes,
            overflow=overflow,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
            standby=standby,
        )
        hooks = {"decoder": decoder, "on_error": on_error, "on_gap": on_gap, "on_state": on_state}
        for name, value in hooks.items():
            if value is not None and not callable(value):
                raise ArgumentTypeError(f"{name} must be callable, which {value!r:.80} is not")
        self.startup_wait = wait
        self.daemon = daemon
        self.decoder = decoder
        self._parameters = make_parameters(db_conf)
        self._autorun = autorun
        self._buffer_size = buffer_size
        self._buffer_bytes = buffer_bytes
        self._overflow: Overflow = overflow
        self._report_error = ErrorReport(on_error)
        self._report_gap = GapReport(on_gap)
        self._state = StateReport(on_state)
        self._settings = Settings(heartbeat, heartbeat_timeout, standby)
        self._publisher = Publisher(self._parameters)
        self._health = (
            None if health_port is None else HealthServer((self,), health_port, health_host)
        )
        self._probes = Probes()
        self._lock = ChangeLock()
        self._registrar = Registrar(self._report_error, self._note_heir)
        self._listener: Listener | None = None
        self._stopped = Gate()
        self._attached: set[Dispatcher] = set()
        self._once_attached: weakref.WeakSet[Dispatcher] = weakref.WeakSet()
        self._dispatcher = InlineDispatcher() if dispatcher is None else dispatcher
        self._attach(self._dispatcher)
        lifetime.watch(self)

    def __repr__(self) -> str:
        state = self._state.current.state
        return f"<Notifier {state}, {len(self._registry)} channels, {self._parameters!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Ctrl-C is to end the program at once, and not when a slow queue has taken the rest.
        interrupted = exc_type is not None and issubclass(exc_type, KeyboardInterrupt)
        self.stop(lifetime.EXIT_TIMEOUT if interrupted else STOP_TIMEOUT)

    async def __aenter__(self) -> Self:
        """Start, without holding up the event loop: see `start()`."""
        self._open_dispatchers()
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.to_thread(self.stop)
            await asyncio.wait([starting])
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, while the event loop goes on: see `stop()`."""
        await asyncio.to_thread(self.stop)

    # --- channels ---

    def add_channels(self, channels: str | Iterable[str], autorun: bool = True) -> None:
        """Listen to channels; those that are there already stay as they are.

        Args:
            channels: One channel as a str, or any iterable of them. All go in one round trip.
            autorun: Whether to make the change live before returning, starting a notifier
                that isn't running (but not from a callback that `stop()` has left running).
                Else LISTEN waits for the next `start` or `restart`.

        Raises:
            ArgumentTypeError: A channel isn't a str.
            ChannelNameError: PostgreSQL can't listen to such a name; nothing was added.
            ConnectionFailedError: The notifier was to be started, and no connection be made.
            ListenRefusedError: The server refused; nothing was added.
            NotLiveError: The connection was not back within 30 s; it will be live once it is.
        """
        names = check_channels(channels)
        if self._lock.puts_off(partial(self.add_channels, names, autorun)):
            return
        with self._lock:
            claim = self._registrar.add(names)
            done = self._request_listen(names, autorun)
        self._wait_live(
            done,
            autorun,
            keep=lambda: self._registrar.accept(claim),
            undo=lambda: self._remove_refused(claim),
        )

    def add_channel(self, channel: str, autorun: bool = True) -> None:
        """Listen to one channel: see `add_channels`."""
        self.add_channels(check_channel(channel), autorun)

    def get_channels(self) -> set[str]:
        """Return the names of the channels that are registered."""
        return set(self._registry)

    def remove_channels(self, channels: str | Iterable[str], autorun: bool = True) -> None:
        """Forget channels and all their subscriptions; those not there are passed over.

        No callback gets a notification of theirs once this has returned.

        Args:
            channels: One channel as a str, or any iterable of them.
            autorun: Whether to UNLISTEN on the running connection. Else that waits for the
                next `restart`, or `stop` and `start`.

        Raises:
            ArgumentTypeError: A channel isn't a str.
            ChannelNameError: No channel can have such a name.
        """
        names = check_channels(channels)
        if self._lock.puts_off(partial(self.remove_channels, names, autorun)):
            return
        with self._lock:
            self._registrar.remove(names)
            self._request_unlisten(names, autorun)
        self._unbind_leaving()

    def remove_channel(self, channel: str, autorun: bool = True) -> None:
        """Forget one channel and its subscriptions: see `remove_channels`."""
        self.remove_channels(check_channel(channel), autorun)

    # --- subscriptions ---

    def subscribe(
        self,
        id: Hashable,
        channel: str,
        fn: Callable[..., object],
        autorun: bool = True,
        *,
        dispatcher: Dispatcher | None = None,
        batch: tuple[int, float] | None = None,
        debounce: float | tuple[float, float] | None = None,
        key: Callable[[Any], Hashable] | None = None,
        on_gap: Callable[..., object] | None = None,
        **options: Any,
    ) -> None:
        """Have a callback called as `fn(id, channel, payload, pid)` for each notification.

        Subscriptions of one channel are delivered to in the order in which they subscribed.
        The same id on the same channel replaces the callback and keeps its place, and what has
        arrived, but waits still, goes to the new callback.

        Args:
            id: Any hashable. May be used on several channels, with different callbacks.
            channel: Added if it isn't there.
            fn: A callable, or whatever else the dispatcher takes.
            autorun: As for `add_channels`: once this has returned, every notification that
                is committed is delivered.
            dispatcher: Delivers to this subscription, in place of the notifier's.
            batch: A pair (max_size, max_seconds): the payload is a list of up to so many, in
                order, delivered so many seconds after the first of them at the latest; pid
                is that of the last.
            debounce: Seconds: of equal payloads the last one is delivered, once so many have
                passed without another, or ten times as many in all. A pair
                (seconds, max_seconds) sets how many in all.
            key: For `debounce`: `key(payload)` tells which payloads count as equal.
            on_gap: What the dispatcher delivers when notifications of the channel may have been
                missed, before any that come later: called, or enqueued, as
                `on_gap((id, "gap"), channel, gap, pid)`, with `Gap.to_dict()` and the pid 0.
            options: The dispatcher's own (`queue=`, `countdown=` … for Celery).

        Raises:
            ArgumentTypeError: The id isn't hashable, the channel no str, `fn` not callable.
            UnknownOptionError: The dispatcher has no such option.
            ConfigurationError: `batch`, `debounce` and `key` don't go together, or a value of
                theirs can't be.
            DispatcherMismatchError: The dispatcher can't run such a callback.
            PgNotifierError: Whatever else `add_channels` raises.
        """
        check_id(id)
        check_channel(channel)
        if not callable(fn):
            raise ArgumentTypeError(
                f"subscription {id!r:.80}: the callback must be callable, which {fn!r:.80} is not"
            )
        if on_gap is not None and not callable(on_gap):
            raise ArgumentTypeError(
                f"subscription {id!r:.80}: on_gap must be callable, which {on_gap!r:.80} is not"
            )
        gathering = check_gathering(id, batch, debounce, key)
        by = self._dispatcher if dispatcher is None else dispatcher
        self._attach(by)
        given = Subscription(
            *(id, channel, fn, by, MappingProxyType(options)), gathering=gathering, on_gap=on_gap
        )
        self._subscribe(given, autorun)

    def on(
        self,
        channels: str | Iterable[str],
        id: Hashable = None,
        autorun: bool = True,
        *,
        dispatcher: Dispatcher | None = None,
        **options: Any,
    ) -> Callable[[Fn], Fn]:
        """Subscribe the decorated function, which stays as it is.

            @notifier.on("orders")
            def invoice(id, channel, payload, pid): ...

        Args:
            channels: One channel as a str, or any iterable of them.
            id: The subscription's id. Default: `"module.qualname"` of the function.
            autorun: As for `subscribe`.
            dispatcher: As for `subscribe`.
            options: As for `subscribe`.
        """
        names = check_channels(channels)

        def subscribed(fn: Fn) -> Fn:
            name = id
            if name is None:
                name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', repr(fn))}"
            for channel in names:
                self.subscribe(name, channel, fn, autorun, dispatcher=dispatcher, **options)
            return fn

        return subscribed

    def unsubscribe(self, id: Hashable, channel: str, autorun: bool = True) -> None:
        """Remove a subscription, and its channel with the last one; a no-op if not there.

        Its callback gets no notification more once this has returned: what waits is dropped,
        though the id may be subscribed again.

        Args:
            id: The subscription's id.
            channel: Its channel.
            autorun: As for `remove_channels`.
        """
        check_id(id)
        check_channel(channel)
        if self._lock.puts_off(partial(self.unsubscribe, id, channel, autorun)):
            return
        with self._lock:
            if self._registrar.unsubscribe(id, channel):
                self._request_unlisten([channel], autorun)
        self._unbind_leaving()

    def get_subscriptions(self) -> dict[str, dict[Hashable, Any]]:
        """Return the callbacks by channel and id; channels without any are left out."""
        registry = self._registry
        found = {
            name: {b.id: b.subscription.fn for b in registry.bindings(name)} for name in registry
        }
        return {name: callbacks for name, callbacks in found.items() if callbacks}

    # --- muting ---

    def mute_channels(self, channels: str | Iterable[str] | None = None) -> None:
        """Deliver nothing of these channels, or of all (None), until they are unmuted.

        What comes meanwhile is thrown away, and so is what has waited and has its turn meanwhile.
        Subscriptions keep their own muting. Channels that aren't there are passed over.
        """
        self._mute_channels(channels, muted=True)

    def unmute_channels(self, channels: str | Iterable[str] | None = None) -> None:
        """Deliver what comes on these channels again, or on all."""
        self._mute_channels(channels, muted=False)

    def mute_subscriber(self, id: Hashable, channels: str | Iterable[str] | None = None) -> None:
        """Deliver nothing to an id on these channels, or on all that it subscribed to."""
        self._mute_subscriber(id, channels, muted=True)

    def unmute_subscriber(self, id: Hashable, channels: str | Iterable[str] | None = None) -> None:
        """Deliver to an id on these channels again, or on all that it subscribed to."""
        self._mute_subscriber(id, channels, muted=False)

    # --- running ---

    def start(self) -> None:
        """Connect and listen to every registered channel; return once they are heard.

        A no-op if the notifier is running. From here on a lost connection is made anew for
        as long as it takes. With `Notifier(wait=…)` that holds for the first one, too; meanwhile
        `status()` tells why there is none, the log says so once a minute, and `stop()`, called
        by another thread, ends this at once.

        Raises:
            ConnectionFailedError: No connection could be made, or none in the seconds of `wait`;
                the notifier isn't running.
            ListenRefusedError: The server refused LISTEN, as a standby does.
            NotListeningError: There is a pooler in between, and nothing arrives.
            ConfigurationError: There is nothing to connect to, or `health_port` is in use.
            NotifierStoppedError: `stop()` was called meanwhile.
        """
        if self._lock.puts_off(self.start):
            return
        listener = self._started_listener()
        if self._is_awaited_by(listener):
            return
        try:
            if not listener.ready.wait(self._longest_wait):
                self._give_up(listener)
            listener.ready.result()
        except BaseException:
            with self._lock:
                if self._listener is listener and not listener.is_alive:
                    self._ended()
            raise

    def begin(self) -> None:
        """Begin to start, and return at once; a `start()` then waits for what this began.

        Raises:
            ConfigurationError: As for `start()`.
        """
        if not self._lock.puts_off(self.begin):
            self._started_listener()

    def is_starting(self) -> bool:
        """Return whether it was started, and is still trying to connect for the first time."""
        listener = self._running_listener()
        return listener is not None and not listener.ready.is_open

    def run(self) -> None:
        """Start: the same as `start()`, which does not block either."""
        self.start()

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Stop listening, deliver what was received, and disconnect. A no-op if not running.

        Returns in time whatever the state of the server, the queue or a callback. What
        could not be delivered in time is given up, counted, and logged as an error. Called
        by a callback it doesn't wait for that callback's own dispatcher, which delivers what
        it has when the callback is done.

        Args:
            timeout: Seconds that it may take.

        Returns:
            How many deliveries were given up.
        """
        if self._lock.puts_off(partial(self.stop, timeout)):
            return 0
        undelivered, deadline = 0, monotonic() + timeout
        with self._lock:  # so that a `start` under way has made it
            listener = self._listener
        if listener is not None:
            undelivered = listener.stop(timeout)
            if undelivered:
                logger.error(
                    "stopped with %s undelivered after %s",
                    count(undelivered, "notification"),
                    duration(timeout),
                    extra=about("undelivered", count=undelivered),
                )
            if not self.daemon:
                for thread in listener.delivering_here():
                    lifetime.see_out(thread)
            with self._lock:
                if self._listener is listener:
                    self._ended()
        self._publisher.close()
        self._state.settle(max(0.0, deadline - monotonic()))
        return undelivered

    def check_configured(self) -> None:
        """Check what would keep it from starting whatever the server says.

        Raises:
            ConfigurationError: There is nothing to connect to.
        """
        self._parameters.check()

    def restart(self) -> None:
        """Replace the connection and listen to what is registered now; start if not running.

        A gap is reported for the moment between.

        Raises:
            ConnectionFailedError: No connection could be made at once. A notifier that was
                running goes on trying.
            NotLiveError: There was none within 30 s; it goes on trying.
        """
        if self._lock.puts_off(self.restart):
            return
        with self._lock:
            listener = self._running_listener()
            done = listener.request("restart") if listener is not None else None
        if done is None:
            self.start()
        else:
            self._confirm(done)

    def is_running(self) -> bool:
        """Return whether the notifier was started and not stopped, be it connected or not."""
        return self._running_listener() is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the notifier is stopped, a `stop()` under way included.

        Args:
            timeout: Seconds to wait at most. Default: no limit.

        Returns:
            Whether it is stopped.
        """
        listener = self._listener
        return listener is None or listener.has_failed or self._stopped.wait(timeout)

    def status(self) -> Status:
        """Return what the notifier is doing, and what it has done."""
        registry, listener = self._registry, self._listener
        deliverers = tuple(listener.deliverers.values()) if listener is not None else ()
        current = self._state.current
        return Status(
            state=current.state,
            since=current.since,
            why=_why_paused(deliverers) if current.state == "listening" else current.why,
            connection=repr(self._parameters),
            channels=len(registry),
            subscriptions=sum(len(list(registry.bindings(name))) for name in registry),
            received=listener.received if listener is not None else 0,
            channel_counts=listener.counts() if listener is not None else {},
            errors=self._report_error.count,
            reconnects=listener.reconnects if listener is not None else 0,
            latency=listener.latency if listener is not None else None,
            queue_usage=listener.queue_usage if listener is not None else None,
            gaps=self._report_gap.count,
            last_gap=self._report_gap.last,
            dispatchers=tuple(
                DispatcherStatus(
                    name=d.name,
                    waiting=d.waiting,
                    delivered=d.delivered,
                    dropped=d.dropped,
                    full=d.full,
                    retrying=d.retrying,
                    since=d.trouble.since,
                    why=d.trouble.why,
                    details=d.dispatcher.details(),
                )
                for d in deliverers
            ),
        )

    def readiness_problems(self) -> list[str]:
        """Return why it isn't ready to do its work; an empty list if it is.

        It is while it hears, or stands by, and each dispatcher can reach its queue, which is
        tried, for 5 s at most.
        """
        current = self._state.current
        trouble = []
        if current.state not in ("listening", "standby"):
            trouble.append(f"{current.state} since {current.since.isoformat(timespec='seconds')}")
        return trouble + self._probes.readiness_problems(tuple(self._attached))

    def notify(self, channel: str, payload: Any = "", encoder: Encoder | None = None) -> None:
        """Send a notification, in a transaction of its own, on a connection of its own.

        What JSON or a Python literal has a type for arrives, where pgnotifier's decoder reads
        it, equal to what was given and of the same type. A date, datetime, time, timedelta,
        Decimal or UUID arrives as a str, written as Django's JSON encoder does, an Enum as its
        value, and a dataclass as a dict.

        Args:
            channel: Where to.
            payload: The value.
            encoder: Returns what is to be sent in place of a value of another type; or a
                subclass of `json.JSONEncoder`, whose `default` does. See `payload.encode`.

        Raises:
            ChannelNameError: PostgreSQL has no such channel.
            PayloadEncodingError: Nothing carries the value.
            PayloadTooLargeError: Written, it has over 7,999 bytes. Nothing was sent.
            ConnectionFailedError: No connection could be made, or it was lost meanwhile.
            NotifyRefusedError: The server refused: its queue is full, say.
        """
        self._publisher.notify(check_channel(channel), payload, encoder)

    # --- inside ---

    @property
    def standby(self) -> str | None:
        """The name that it shares with others of which one listens."""
        return self._settings.standby

    @standby.setter
    def standby(self, name: str | None) -> None:
        self._settings = replace(self._settings, standby=name)

    @property
    def startup_wait(self) -> bool | float | None:
        """Whether `start()` waits for a server that can't be reached: `Notifier(wait=…)`."""
        return self._wait

    @startup_wait.setter
    def startup_wait(self, wait: bool | float | None) -> None:
        check_settings(wait=wait)
        self._wait = wait

    @property
    def _longest_wait(self) -> float | None:
        return None if not self._wait or self._wait is True else float(self._wait)

    @property
    def _registry(self) -> Registry:
        return self._registrar.registry

    def _attach(self, dispatcher: Dispatcher) -> None:
        if not isinstance(dispatcher, Dispatcher):
            raise ArgumentTypeError(
                f"a dispatcher is an instance of pgnotifier.Dispatcher, not {dispatcher!r:.80}"
            )
        if dispatcher not in self._attached:
            dispatcher.attach(self)
            if self.is_running():
                dispatcher.open()
            self._attached.add(dispatcher)
            self._once_attached.add(dispatcher)

    def _forget_unused(self) -> None:
        """Forget the dispatchers that have lost their last subscription, but for its own."""
        with self._lock:
            unused = self._registrar.take_unused() - {self._dispatcher}
            self._attached -= unused
            listener = self._running_listener()
            if listener is not None and unused:
                listener.retire(unused)

    def _note_heir(self, binding: Binding) -> None:
        """Have what waits for a binding handed on to its heir."""
        listener = self._listener
        deliverer = None if listener is None else listener.deliverers.get(binding.dispatcher)
        if deliverer is not None:
            deliverer.succession.note(binding)

    def _open_dispatchers(self) -> None:
        for dispatcher in tuple(self._attached):
            dispatcher.open()

    def _deliverer(self, dispatcher: Dispatcher, on_room: Callable[[], None]) -> Deliverer:
        return Deliverer(
            dispatcher,
            decode=self.decoder,
            size=self._buffer_size,
            max_bytes=self._buffer_bytes,
            overflow=self._overflow,
            on_room=on_room,
            owner=self,
        )

    def _started_listener(self) -> Listener:
        """Return the listener that runs, or a new one once the one before has ended.

        Two that hear at the same time would deliver twice.
        """
        if not self.is_running():
            self.check_configured()
        while True:
            with self._lock:
                listener = self._listener
                if listener is not None and listener.is_alive:
                    return listener
                if listener is None or listener.ended.is_open:
                    listener = self._listener = self._make_listener()
                    self._stopped = Gate()
                    lifetime.hold(self)
                    break
            if listener.waits_for_caller():
                raise NotifierStoppedError("the notifier is still stopping; start it afterwards")
            listener.ended.wait()
        self._launch(listener)
        return listener

    def _make_listener(self) -> Listener:
        return Listener(
            self._parameters,
            lambda: self._registry,
            self._deliverer,
            self._report_gap,
            self._state,
            replace(self._settings, waits=bool(self._wait)),
        )

    def _launch(self, listener: Listener) -> None:
        """Start a listener, holding no lock: dispatchers and the log are others'."""
        try:
            self._open_dispatchers()
            if self._health is not None:
                self._health.start()
            listener.start()
        except BaseException as exc:
            interrupted = NotifierStoppedError("starting was interrupted")
            listener.abort(exc if isinstance(exc, Exception) else interrupted)
            with self._lock:
                if self._listener is listener:
                    self._ended()
            raise
        with self._lock:  # `stop()` may have been faster, and found no port to close
            if self._listener is None and self._health is not None:
                self._health.stop()

    def _give_up(self, listener: Listener) -> None:
        """Stop a listener that has had all the time to connect."""
        why = self._state.current.why or f"no answer from PostgreSQL ({self._parameters!r})"
        if listener.ready.is_open:
            return
        listener.stop(STOP_TIMEOUT)
        waited = self._longest_wait or 0.0
        raise ConnectionFailedError(f"not connected within {duration(waited)}: {why}")

    def _running_listener(self) -> Listener | None:
        listener = self._listener
        return listener if listener is not None and listener.is_alive else None

    def _ended(self) -> None:
        self._listener = None
        if self._health is not None:
            self._health.stop()
        lifetime.release(self)
        self._stopped.open()

    def _mute_channels(self, channels: str | Iterable[str] | None, *, muted: bool) -> None:
        names = None if channels is None else check_channels(channels)
        if self._lock.puts_off(partial(self._mute_channels, names, muted=muted)):
            return
        with self._lock:
            self._registrar.mute_channels(list(self._registry) if names is None else names, muted)

    def _mute_subscriber(
        self, id: Hashable, channels: str | Iterable[str] | None, *, muted: bool
    ) -> None:
        check_id(id)
        names = None if channels is None else check_channels(channels)
        if self._lock.puts_off(partial(self._mute_subscriber, id, names, muted=muted)):
            return
        with self._lock:
            everywhere = list(self._registry) if names is None else names
            self._registrar.mute_subscriber(id, everywhere, muted)

    def _subscribe(self, given: Subscription, autorun: bool) -> None:
        if self._lock.puts_off(partial(self._subscribe, given, autorun)):
            return
        change, done = self._bind(given, autorun)
        self._wait_live(
            done,
            autorun,
            keep=lambda: self._registrar.settle(change),
            undo=lambda: self._take_back(change),
        )

    def _bind(
        self, given: Subscription, autorun: bool, undoing: Change | None = None
    ) -> tuple[Change, Outcome | None]:
        """Have a subscription bound and put into the registry, and LISTEN queued.

        No lock is held while its dispatcher binds it: that may wait for who finalizes a Celery
        app, say, and has come to a module that subscribes.
        """
        again = False
        while True:
            with self._lock:
                change = self._registrar.begin(given.id, given.channel, undoing)
            try:
                bound = self._registrar.bind(given, change, again=again)
            except BaseException:
                self._unbind_leaving()
                raise
            with self._lock:
                if self._registrar.complete(change, bound):
                    done = self._request_listen([given.channel], autorun)
                    break
            again = True
        self._attach(given.dispatcher)  # it may have lost its last subscription meanwhile
        self._unbind_leaving()
        return change, done

    def _unbind_leaving(self) -> None:
        """Have dispatchers forget what was removed, with no lock held, as in `_bind`."""
        while True:
            with self._lock:
                leaving = self._registrar.next_leaving()
            if leaving is None:
                break
            change, subscription = leaving
            try:
                self._registrar.unbind(subscription, change)
            finally:
                with self._lock:
                    self._registrar.forgotten(change, subscription)
        self._forget_unused()

    def _take_back(self, refused: Change) -> None:
        """Have what was before a subscription that the server has refused."""
        while True:
            with self._lock:
                before = self._registrar.refuse(refused)
                if before is None:
                    self._registrar.take_back(refused)
                if not self._registrar.holds(refused):
                    break
            assert before is not None
            self._bind(before, autorun=False, undoing=refused)
        self._remove_refused(refused.claim)

    def _remove_refused(self, claim: Claim) -> None:
        with self._lock:
            self._registrar.give_up(claim)
        self._unbind_leaving()

    def _request_listen(self, names: list[str], autorun: bool) -> Outcome | None:
        """Queue LISTEN for a listener that runs. With the lock held: in the registry's order."""
        listener = self._running_listener()
        return listener.request("listen", names) if autorun and listener and names else None

    def _request_unlisten(self, names: list[str], autorun: bool) -> None:
        # Nobody needs to wait for it: what still comes has no lanes in the registry.
        listener = self._running_listener()
        if autorun and listener and names:
            listener.request("unlisten", names)

    def _wait_live(
        self,
        done: Outcome | None,
        autorun: bool,
        keep: Callable[[], None],
        undo: Callable[[], None],
    ) -> None:
        """Wait until a change is live; undo it if the server refuses, else keep it."""
        self._registrar.spelling.warn()
        try:
            if done is not None:
                self._confirm(done)
            elif autorun and not self.is_running() and self._starts_by_itself():
                self.start()
        except ListenRefusedError:
            undo()
            raise
        except BaseException:
            self._keep(keep)
            raise
        self._keep(keep)

    def _keep(self, keep: Callable[[], None]) -> None:
        if not self._lock.puts_off(partial(self._keep, keep)):
            with self._lock:
                keep()

    def _confirm(self, done: Outcome) -> None:
        listener = self._listener
        if listener is not None and self._is_awaited_by(listener):
            return  # it is live once what called this is done
        if not done.wait(LIVE_TIMEOUT):
            status = self.status()
            full = any(dispatcher.full for dispatcher in status.dispatchers)
            raise NotLiveError(
                f"the server has not confirmed within {LIVE_TIMEOUT:g} s (state: {status.state}"
                f"{', a buffer is full' if full else ''}); the change is registered, and live "
                "once it does"
            )
        done.result()

    def _is_awaited_by(self, listener: Listener) -> bool:
        """Return whether the calling code mustn't wait, as what it would wait for waits for it."""
        return self._lock.is_catching_up or listener.waits_for_caller()

    def _starts_by_itself(self) -> bool:
        # A callback that is running though the notifier isn't would undo the `stop()` that waits
        # for it, or has given it up.
        if called_by_callback(self) or are_starts_held():
            return False
        listener = self._listener
        if listener is not None and listener.waits_for_caller():  # and is stopping
            return False
        if self._autorun is not None:
            return self._autorun
        # A copy: other threads may subscribe with further dispatchers meanwhile.
        return all(dispatcher.starts_listener for dispatcher in tuple(self._attached))

    def forget_in_child(self) -> None:
        """Forget the parent's listener in a forked child."""
        self._lock = ChangeLock()
        self._stopped.open()
        self._state.forget_in_child()
        if self._health is not None:
            self._health.forget_in_child()
        self._probes = Probes()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.forget_in_child()
        # Those of a listener that has stopped as well: their threads may not have ended yet.
        for dispatcher in tuple(self._once_attached):
            dispatcher.forget_in_child()


def _why_paused(deliverers: Iterable[Deliverer]) -> str | None:
    """Return why a listener that hears reads nothing; None if it reads."""
    for one in deliverers:
        if one.full:
            since = one.trouble.since
            said = f" since {since.isoformat(timespec='seconds')}" if since is not None else ""
            why = f": {one.trouble.why}" if one.trouble.why else ""
            return f"nothing is read{said}, as the buffer of {one.name} is full{why}"
    return None
