"""Notifier: the object that users create, fill with subscriptions, and start."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from pgnotifier._connection.parameters import Parameters, Supply, make_parameters
from pgnotifier._delivery.reports import ErrorReport, GapReport, OnError, OnGap
from pgnotifier._health.health_server import HealthServer
from pgnotifier._listener.listener import Settings
from pgnotifier._listener.state import StateReport
from pgnotifier._notifier.both_changes import BothChanges
from pgnotifier._notifier.lifecycle import Lifecycle, Reports
from pgnotifier._notifier.reporting import answer_questions
from pgnotifier._notifier.runnable import Runnable
from pgnotifier._registry.checks import check_callable, check_channel, check_channels, check_id
from pgnotifier._runtime.names import name_function
from pgnotifier.dispatch import Dispatcher, Subscription
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.durability import (
    Durability,
    MaxLag,
    check_durability,
    check_name,
    check_place,
    take_option,
)
from pgnotifier.errors import UnknownSubscriptionError
from pgnotifier.gathering import check_gathering
from pgnotifier.payload import decode
from pgnotifier.settings import BUFFER_BYTES, Overflow, check_settings
from pgnotifier.status import OnState

Fn = TypeVar("Fn", bound=Callable[..., object])
Channels = str | Iterable[str]
"""One channel, or any iterable of channels."""


class Notifier(Runnable):
    """Listens to channels of a PostgreSQL database, and delivers notifications to subscriptions.

        with Notifier("postgresql://localhost/shop") as notifier:
            notifier.subscribe("resize", "image_uploaded", resize)
            ...

    Any thread may call any method, and so may callbacks.
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
        answers: bool = True,
        remote_commands: bool = False,
    ) -> None:
        """Take the settings, without connecting.

        Args:
            db_conf: A dict of libpq parameters, a conninfo string or a URI, or a callable that
                returns one of these for each new connection, for credentials that rotate:
                https://www.postgresql.org/docs/current/libpq-connect.html. With None, whatever
                needs a connection raises ConfigurationError.
            dispatcher: Delivers to subscriptions that name no dispatcher. Default: an
                `InlineDispatcher`, which calls them in this process.
            autorun: Whether `autorun=True` in methods starts a notifier that isn't running.
                Default: yes, unless a dispatcher sends to a queue: workers import the same modules
                and must never listen.
            daemon: Whether the process may end while this notifier runs.
            decoder: Returns the Python value of a payload's text. Default:
                `pgnotifier.payload.decode`.
            on_error: Called as `on_error(exc, subscription, notification)` for each delivery
                that failed, on the thread on which it failed.
            on_gap: Called with each `Gap`, on its own thread, once all channels are listened to
                again. Later notifications wait until it returns, so that it can first catch up
                from the database.
            on_state: Called with each `StateChange`, on its own thread.
            heartbeat: Seconds without a notification after which the connection is checked, by a
                notification that the notifier sends to itself.
            heartbeat_timeout: Seconds within which that notification must arrive; otherwise the
                connection is replaced.
            buffer_size: How many notifications may wait for one dispatcher.
            buffer_bytes: How many bytes of payloads may wait for one dispatcher.
            overflow: What happens when a buffer is full: `block` stops reading, so that
                PostgreSQL keeps the rest; `drop_oldest` and `drop_newest` report a gap.
            standby: A name. Only one of the notifiers with this name in a database listens, and
                another one takes over when its connection ends. Default: every notifier listens.
            health_port: The port that answers `/healthz` and `/readyz` over HTTP while the
                notifier runs. Default: none.
            health_host: The address of that port: `0.0.0.0` or `::` for all addresses of the
                machine. Default: 127.0.0.1.
            wait: Whether `start()` keeps trying while the server can't be reached: True for as
                long as it takes, or a number of seconds. Default: no; commands such as
                `pgnotifier listen` keep trying.
            answers: Whether it answers `pgnotifier status` with its channels, subscriptions, tasks
                and figures. Any role that may connect to the database can ask.
            remote_commands: Whether roles that may terminate its session may also mute its channels
                and subscriptions, with `pgnotifier top` or the console.

        Raises:
            ArgumentTypeError: An argument has the wrong type.
            ConfigurationError: A connection parameter doesn't exist, or a value is invalid.
        """
        check_settings(
            buffer_size=buffer_size,
            buffer_bytes=buffer_bytes,
            overflow=overflow,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
            standby=standby,
            wait=wait,
            answers=answers,
            remote_commands=remote_commands,
        )
        hooks = {"decoder": decoder, "on_error": on_error, "on_gap": on_gap, "on_state": on_state}
        for name, value in hooks.items():
            if value is not None:
                check_callable(name, value)
        self.daemon = daemon
        self.standby = standby
        self.decoder = decoder
        self._lifecycle = Lifecycle(
            self,
            make_parameters(db_conf),
            InlineDispatcher() if dispatcher is None else dispatcher,
            Reports(ErrorReport(on_error), GapReport(on_gap), StateReport(on_state)),
            Settings(heartbeat, heartbeat_timeout, buffer_size, buffer_bytes, overflow),
            HealthServer((self,), health_port, health_host),
            wait,
        )
        self._changes = BothChanges(self, self._lifecycle, autorun)
        self._changes.volatile.attach(self._lifecycle.attachments.default)
        if answers:
            answer_questions(self, self._lifecycle, orders=remote_commands)

    def __repr__(self) -> str:
        state = self._lifecycle.reports.states.current.state
        channels = len(self._lifecycle.registrar.registry)
        return f"<Notifier {state}, {channels} channels, {self._lifecycle.parameters!r}>"

    def add_channels(self, channels: Channels, autorun: bool = True) -> None:
        """Listen to channels, all in one round trip. Existing channels stay as they are.

        Args:
            channels: One channel as a str, or any iterable of channels.
            autorun: Whether the change is live when this returns. True starts a notifier that
                isn't running, except in a callback that `stop()` has left running. With
                False, LISTEN waits for the next `start` or `restart`.

        Raises:
            ArgumentTypeError: A channel isn't a str.
            ChannelNameError: PostgreSQL can't listen to such a name; nothing was added.
            ConnectionFailedError: The notifier was started, and no connection could be made.
            ListenRefusedError: The server refused; nothing was added.
            NotLiveError: The server has not confirmed within 30 s. The channels are registered,
                and become live when it does.
            PgNotifierError: Whatever else `start` raises.
        """
        self._changes.volatile.add_channels(check_channels(channels), autorun)

    def add_channel(self, channel: str, autorun: bool = True) -> None:
        """Listen to one channel: see `add_channels`."""
        self.add_channels(check_channel(channel), autorun)

    def get_channels(self) -> set[str]:
        """Return the names of the registered channels, those of durable subscriptions included."""
        return {*self._lifecycle.registrar.registry, *self._lifecycle.durable_registrar.registry}

    def remove_channels(self, channels: Channels, autorun: bool = True) -> None:
        """Remove channels and their subscriptions, which get nothing more from now on.

        Args:
            channels: One channel as a str, or any iterable; unknown ones are ignored.
            autorun: Whether to UNLISTEN now, or at the next `start` or `restart`.

        Raises:
            ArgumentTypeError: A channel isn't a str.
            ChannelNameError: No channel can have such a name.
        """
        self._changes.remove_channels(check_channels(channels), autorun)

    def remove_channel(self, channel: str, autorun: bool = True) -> None:
        """Remove one channel and its subscriptions: see `remove_channels`."""
        self.remove_channels(check_channel(channel), autorun)

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
        durable: bool = False,
        start: str | datetime | None = None,
        max_attempts: int | None = None,
        on_failure: Any = None,
        max_lag: MaxLag | None = None,
        max_age: timedelta | None = None,
        **options: Any,
    ) -> None:
        """Have `fn(id, channel, payload, pid)` called for each notification on a channel.

        The subscriptions of a channel are called in the order in which they subscribed.
        Subscribing the same id to the same channel again replaces the callback and keeps its
        place; notifications that are already waiting go to the new callback.

        Args:
            id: Any hashable.
            channel: Added if it isn't there.
            fn: A callable, or whatever else the dispatcher takes.
            autorun: As for `add_channels`: what is committed after this has returned is delivered.
            dispatcher: Delivers to this subscription. Default: the notifier's.
            batch: `(max_size, max_seconds)`: the payload is a list of up to `max_size` payloads,
                delivered at most `max_seconds` after the first; the pid is the last one's.
            debounce: Seconds: only the last of equal payloads is delivered, once this many seconds
                have passed without another one, or ten times as many since the first. A pair
                `(seconds, max_seconds)` sets both.
            key: For `debounce`: payloads with the same `key(payload)` count as equal.
            on_gap: Called or enqueued as `on_gap((id, "gap"), channel, gap, 0)` when
                notifications of the channel may have been missed, before any later ones. The
                gap is a `Gap.to_dict()`. A durable subscription has gaps with `max_lag` only.
            durable: Whether it gets what `pgnotifier.durable.publish` publishes, at least once,
                even if nobody listens at that moment. It gets no plain notifications. Its id must
                be a str: the database stores its position under that name.
            start: For `durable`: where a new subscription begins: "now" (the default), "oldest" or
                a time.
            max_attempts: For `durable`: how many times an entry is tried before it becomes a dead
                letter. Default: 5.
            on_failure: For `durable`: "dead_letter" (the default), or "stop" to deliver nothing
                later until the failed entry has succeeded. RQ has an option of that name, too.
            max_lag: For `durable`: how far it may fall behind. Older entries are dropped and
                reported as a gap.
            max_age: For `durable`: how long an entry may wait before the notifier counts as not
                ready.
            options: The dispatcher's own options (`queue=`, `countdown=` … for Celery).

        Raises:
            LogNotInstalledError: The database has no durable log: run `pgnotifier install`.
            LogRefusedError: This role may not read it.
            NotListeningError: The log can't be read through a pooler in transaction mode.
            ArgumentTypeError: The id isn't hashable, the channel isn't a str, or a callable isn't.
            UnknownOptionError: The dispatcher has no such option.
            ConfigurationError: `batch`, `debounce` and `key`, or the options of `durable`, are
                invalid or can't be combined; or the id has a durable subscription to this channel
                and this one isn't durable, or the reverse.
            DispatcherMismatchError: The dispatcher can't run such a callback.
            PgNotifierError: Whatever else `add_channels` raises.
        """
        check_id(id)
        check_channel(channel)
        check_callable("the callback", fn, of=id)
        if on_gap is not None:
            check_callable("on_gap", on_gap, of=id)
        gathering = check_gathering(id, batch, debounce, key)
        on_failure = take_option(on_failure, durable, options)
        wanted = (durable, start, max_attempts, on_failure, on_gap, max_lag, max_age)
        durability = check_durability(id, *wanted)
        changes = self._changes.of(id, channel, durable=durable)
        by = self._lifecycle.attachments.default if dispatcher is None else dispatcher
        changes.attach(by)
        given = (id, channel, fn, by, MappingProxyType(options))
        changes.subscribe(
            Subscription(*given, gathering=gathering, on_gap=on_gap, durability=durability), autorun
        )

    def on(
        self,
        channels: Channels,
        id: Hashable = None,
        autorun: bool = True,
        *,
        dispatcher: Dispatcher | None = None,
        **options: Any,
    ) -> Callable[[Fn], Fn]:
        """Subscribe the decorated function, and return it as it is.

            @notifier.on("orders")
            def invoice(id, channel, payload, pid): ...

        Args:
            channels: One channel as a str, or any iterable of channels.
            id: The subscription's id. Default: `"module.qualname"` of the function.
            autorun: As for `subscribe`.
            dispatcher: As for `subscribe`.
            options: As for `subscribe`.
        """
        names = check_channels(channels)

        def subscribed(fn: Fn) -> Fn:
            name = name_function(fn) if id is None else id
            for channel in names:
                self.subscribe(name, channel, fn, autorun, dispatcher=dispatcher, **options)
            return fn

        return subscribed

    def unsubscribe(
        self, id: Hashable, channel: str, autorun: bool = True, *, forget: bool = False
    ) -> None:
        """Remove a subscription, if it exists, and its channel if that was the last one.

        Its callback gets nothing more once this has returned: notifications that wait are
        discarded, even if the id subscribes again. A durable subscription that subscribes again
        continues from its position.

        Args:
            id: The subscription's id.
            channel: Its channel.
            autorun: As for `remove_channels`.
            forget: Whether to delete a durable subscription's position and failed entries from the
                database. This also works if it isn't subscribed here.

        Raises:
            ConnectionFailedError: The position can't be deleted, as no connection could be made.
            LogNotInstalledError: The database has no durable log.
            LogRefusedError: This role may not do so.
        """
        self._changes.unsubscribe(check_id(id), check_channel(channel), autorun)
        if forget:
            self._changes.durable.forget(check_name(id), channel)

    def seek(self, id: str, channel: str, to: str | datetime | int) -> None:
        """Move the position of a durable subscription, whichever process is reading it.

        Args:
            id: The subscription's id. It doesn't have to be subscribed here.
            channel: Its channel.
            to: "now", which skips everything until now; "oldest"; an aware datetime; or the number
                of an entry. Everything after that place which the log still has is delivered again.
                With a time or a number, a few earlier entries may be delivered again as well.

        Raises:
            UnknownSubscriptionError: It has no position.
            ConnectionFailedError: No connection could be made.
            LogNotInstalledError: The database has no durable log.
            LogRefusedError: This role may not do so.
        """
        place = check_place(id, to)
        if not self._changes.durable.seek(check_name(id), check_channel(channel), place):
            raise UnknownSubscriptionError(
                f"subscription {id!r:.80} on channel {channel!r} has no position in the log: "
                "nobody has subscribed it with durable=True yet"
            )

    def get_subscriptions(self) -> dict[str, dict[Hashable, Any]]:
        """Return the callbacks by channel and id, without channels that have none."""
        found = self._lifecycle.registrar.registry.callbacks()
        for channel, callbacks in self._lifecycle.durable_registrar.registry.callbacks().items():
            found.setdefault(channel, {}).update(callbacks)
        return found

    def get_durability(self, id: Hashable, channel: str) -> Durability | None:
        """Return the options of an id's durable subscription to a channel; None if it has none."""
        return self._changes.durable.get_durability(id, channel)

    def mute_channels(self, channels: Channels | None = None) -> None:
        """Deliver nothing on these channels, or on all (None), until they are unmuted.

        What arrives or is due meanwhile is discarded, except for durable subscriptions, which get
        it afterwards. Unknown channels are ignored.
        """
        self._changes.mute_channels(_check_or_all(channels), muted=True)

    def unmute_channels(self, channels: Channels | None = None) -> None:
        """Deliver again on these channels, or on all; muted subscriptions stay muted."""
        self._changes.mute_channels(_check_or_all(channels), muted=False)

    def mute_subscriber(self, id: Hashable, channels: Channels | None = None) -> None:
        """Deliver nothing to an id on these channels, or on all that it subscribed to."""
        self._changes.mute_subscriber(check_id(id), _check_or_all(channels), muted=True)

    def unmute_subscriber(self, id: Hashable, channels: Channels | None = None) -> None:
        """Deliver to an id again on these channels, or on all that it subscribed to."""
        self._changes.mute_subscriber(check_id(id), _check_or_all(channels), muted=False)


def _check_or_all(channels: Channels | None) -> list[str] | None:
    return None if channels is None else check_channels(channels)
