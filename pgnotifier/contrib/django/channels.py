"""Provide `Channel`, a Django signal that is sent by PostgreSQL notifications."""

from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from typing import Any, ClassVar, Self, TypeVar, Unpack, overload
from weakref import ReferenceType, WeakValueDictionary

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.dispatch import Signal
from django.utils.functional import Promise

from pgnotifier._connection.publisher import check_size, make_text
from pgnotifier._connection.session import encoding_of
from pgnotifier._log.composing import Key
from pgnotifier._log.publishing import Order, publish_in, publish_many_in
from pgnotifier._log.sessions import DjangoSession
from pgnotifier._payload.plain import Encoder
from pgnotifier._registry.checks import check_channel, check_unreserved
from pgnotifier.contrib.django.changes import find_model, restore_values
from pgnotifier.contrib.django.channel_tasks import TaskSignal
from pgnotifier.contrib.django.known import CHANNELS
from pgnotifier.contrib.django.notifiers import get_notifier
from pgnotifier.contrib.django.receiver_options import (
    RECEIVERS,
    ReceiverOptions,
    check_receiver_options,
)
from pgnotifier.contrib.django.signalling import SignalDispatcher
from pgnotifier.errors import ArgumentTypeError
from pgnotifier.notification import Notification

F = TypeVar("F", bound=Callable[..., Any])

_is_listener: ContextVar[bool] = ContextVar("pgnotifier_is_listener", default=False)


class Channel(TaskSignal):
    """A PostgreSQL channel as a Django signal.

        orders = Channel("orders")

        @receiver(orders)  # or @orders.connect
        def recount(sender, payload, **kwargs): ...

        orders.notify({"id": 1})

    Receivers are connected and called like those of any signal: with `sender`, with weak references
    by default, once for each `dispatch_uid`, plain or async. An exception in one receiver doesn't
    stop the others. Receivers get `payload`, the `pid` of the session that sent it, the name of the
    `channel`, the `notification` with its text and time, `signal`, and `sender`: the model if
    `notify_on` has sent it, otherwise this channel. They are called in the process that listens,
    `manage.py pgnotifier`; workers call those of `task()`.

    There is one object for each name, for as long as something refers to it. A channel that has had
    a receiver, a task or a trigger is kept.

    A durable channel, `Channel("orders", durable=True)`, has its entries kept in the log: each
    receiver or task gets them at least once, even if nothing listens when they are published. All
    of its receivers share one position in the log, so options such as `max_lag=` are the channel's.

    Attributes:
        name: The name of the channel.
        durable: Whether `notify` publishes to the log, and receivers and tasks read from it.
        reading: How its receivers read the log, if it is durable and any options were given.
        gap: A signal that is sent when notifications of this channel may have been missed, before
            later notifications are delivered. Its argument `gap` is a dict of `since`, `until`,
            `channels` and `reason`. A durable channel only sends it if it has `max_lag`.
        tasks: The receivers that workers call, by id.
        gap_tasks: The receivers that workers call for gaps, by id.
    """

    # Weak, because programs may make channel names from what their users send.
    known: ClassVar[WeakValueDictionary[str, "Channel"]] = CHANNELS
    gap: Signal
    reading: dict[str, Any]

    def __new__(
        cls,
        name: str,
        *,
        using: str | None = None,
        durable: bool | None = None,
        **reading: Unpack[ReceiverOptions],
    ) -> Self:
        """Return the channel of that name.

        Args:
            name: The name of the channel: case-sensitive, up to 63 bytes.
            using: The alias of the channel's database in DATABASES. Default:
                `PGNOTIFIER["DATABASE"]`.
            durable: Whether it is durable. Its database needs the log: add
                `pgnotifier.contrib.django.durable` to INSTALLED_APPS. Default: no.
            reading: How the receivers of a durable channel read the log: `start`, `max_attempts`,
                `on_failure`, `max_lag` and `max_age`, as in `Notifier.subscribe`. Tasks have their
                own.

        Raises:
            ChannelNameError: PostgreSQL doesn't allow the name; or it is durable, and an outbox.
            ImproperlyConfigured: The channel already belongs to another database; or it was made
                with another `durable=` or other options; or it has options, and isn't durable.
            UnknownOptionError: There is no such option.
            ArgumentTypeError: An option has the wrong type.
            ConfigurationError: An option's value is out of range.
        """
        found = cls.known.get(check_channel(name))
        if found is not None:
            if using is not None and using != found.database:
                raise ImproperlyConfigured(
                    f"channel {name!r} belongs to database {found.database!r} already, and can't "
                    f"belong to {using!r} as well; use another name"
                )
            if durable is not None and durable != found.durable:
                raise ImproperlyConfigured(
                    f"channel {name!r} has been made with durable={found.durable}, so it can't be "
                    f"made with durable={durable} as well; define it once, and import it"
                )
            asked = check_receiver_options(name, reading, durable=found.durable)
            if asked and asked != found.reading:
                raise ImproperlyConfigured(
                    f"channel {name!r} has been made with {found.reading or 'no options'}, so it "
                    f"can't be made with {asked} as well; define it once, and import it"
                )
            return found  # type: ignore[return-value]
        if durable:
            check_unreserved(name)
        options = check_receiver_options(name, reading, durable=bool(durable))
        channel = super().__new__(cls)
        TaskSignal.__init__(channel, name, using, durable=bool(durable))
        channel.reading = options
        channel.gap = _GapSignal(channel)
        cls.known[name] = channel
        return channel

    def __init__(
        self,
        name: str,
        *,
        using: str | None = None,
        durable: bool | None = None,
        **reading: Unpack[ReceiverOptions],
    ) -> None:
        """Do nothing, because the channel may be an existing one: see `__new__`."""

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}>"

    @classmethod
    def all_known(cls) -> "list[Channel]":
        """Return all existing channels."""
        # `valuerefs` makes a list in one step, so that other threads may add some meanwhile.
        return [one for ref in cls.known.valuerefs() if (one := ref()) is not None]

    # --- receiving ---

    @overload  # type: ignore[override]
    def connect(
        self,
        receiver: F,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
    ) -> F: ...

    @overload
    def connect(
        self,
        receiver: None = None,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
    ) -> Callable[[F], F]: ...

    def connect(
        self,
        receiver: Any = None,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
    ) -> Any:
        """Connect a receiver, as `django.dispatch.Signal.connect` does. Also works as a decorator.

        Returns:
            The receiver; a decorator if no receiver was given.
        """
        if receiver is None:
            return lambda fn: self.connect(fn, sender, weak, dispatch_uid)
        super().connect(receiver, sender, weak, dispatch_uid)
        self._listen()
        return receiver

    def disconnect(
        self, receiver: Any = None, sender: object = None, dispatch_uid: Hashable = None
    ) -> bool:
        """Disconnect a receiver, as `django.dispatch.Signal.disconnect` does."""
        done = super().disconnect(receiver, sender, dispatch_uid)
        if self._is_subscribing and not (self.receivers or self.gap.receivers):
            notifier = get_notifier(self.database)
            notifier.unsubscribe(RECEIVERS, self.name, notifier.is_running())
        return bool(done)

    @classmethod
    def start_subscribing(cls) -> None:
        """Subscribe the existing receivers and tasks, and later ones when they are connected.

        This is called when the apps are ready.
        """
        Channel._is_subscribing = True
        for channel in cls.all_known():
            if channel.receivers or channel.gap.receivers:
                channel._listen()
            channel.subscribe_known_tasks()

    def _listen(self) -> None:
        """Subscribe to notifications and gaps, unless that is done already, or it is too early."""
        self.keep()
        if not self._is_subscribing:
            return
        notifier = get_notifier(self.database)
        misses = not self.durable or "max_lag" in self.reading
        if RECEIVERS not in notifier.get_subscriptions().get(self.name, {}):
            notifier.subscribe(
                RECEIVERS,
                self.name,
                self.deliver,
                notifier.is_running(),
                dispatcher=SignalDispatcher.shared(notifier),
                on_gap=self.deliver_gap if misses else None,
                durable=self.durable,
                **self.reading,
            )

    def deliver(self, arrived: Notification) -> list[Exception]:
        """Call the receivers with a notification; return the exceptions that they raised."""
        model = find_model(arrived.payload)
        restore_values(model, arrived.payload)
        if not self.receivers:
            return []
        listening = _is_listener.set(True)
        try:
            responses = self.send_robust(
                self if model is None else model,
                payload=arrived.payload,
                pid=arrived.pid,
                channel=self.name,
                notification=arrived,
            )
        finally:
            _is_listener.reset(listening)
        return [response for _, response in responses if isinstance(response, Exception)]

    def deliver_gap(self, arrived: Notification) -> list[Exception]:
        """Call the receivers of `gap`; return the exceptions that they raised."""
        responses = self.gap.send_robust(self, gap=arrived.payload, channel=self.name)
        return [response for _, response in responses if isinstance(response, Exception)]

    def _log_robust_failure(self, receiver: Any, err: Exception) -> None:
        if not _is_listener.get():  # the listener reports it itself
            super()._log_robust_failure(receiver, err)  # type: ignore[misc]

    def live_receivers(self) -> list[Callable[..., Any]]:
        """Return the receivers that haven't been garbage collected, for all senders."""
        held = [entry[1] for entry in self.receivers]
        found = [one() if isinstance(one, ReferenceType) else one for one in held]
        return [one for one in found if one is not None]

    # --- sending ---

    def notify(
        self,
        payload: Any = "",
        using: str | None = None,
        encoder: Encoder | None = None,
        *,
        key: str | None = None,
    ) -> None:
        """Send a notification when the transaction commits; at once if there is none.

        Within `atomic()` the notification belongs to the transaction: PostgreSQL sends it with the
        COMMIT, and discards it with a ROLLBACK, even just to a savepoint. A durable channel
        publishes an entry to the log in the same way: see `publish`.

        Args:
            payload: The value to send. Types that JSON or a Python literal can hold arrive
                unchanged. A date, datetime, time, timedelta, Decimal, UUID or lazy text arrives as
                the str that `DjangoJSONEncoder` makes of it, an Enum as its value, and a dataclass
                as a dict.
            using: An alias of DATABASES. Default: the channel's database.
            encoder: A callable that returns a replacement for a value of any other type; or a
                subclass of `json.JSONEncoder` with a method `default` that does so.
            key: What the entry of a durable channel is about.

        Raises:
            PayloadEncodingError: The value can't be encoded.
            PayloadTooLargeError: The encoded payload has over 7,999 bytes; over 64 MiB if the
                channel is durable.
            ArgumentTypeError: There is a key, and the channel isn't durable.
            LogNotInstalledError: The channel is durable, and its database has no log.
            django.db.Error: PostgreSQL refused the notification.
        """
        if self.durable:
            self.publish(payload, key, using=using, encoder=encoder)
            return
        if key is not None:
            raise ArgumentTypeError(
                f"channel {self.name!r} isn't durable, so its notifications have no key"
            )
        text = make_text(self.name, payload, _write_lazily if encoder is None else encoder)
        with connections[using or self.database].cursor() as cursor:
            # Check it here, because an error of the server would abort the caller's transaction.
            check_size(self.name, text, encoding_of(cursor.connection))
            cursor.execute("SELECT pg_catalog.pg_notify(%s, %s)", [self.name, text])

    async def anotify(
        self,
        payload: Any = "",
        using: str | None = None,
        encoder: Encoder | None = None,
        *,
        key: str | None = None,
    ) -> None:
        """Send a notification: see `notify`."""
        await sync_to_async(self.notify)(payload, using, encoder, key=key)

    def publish(
        self,
        payload: Any = "",
        key: str | None = None,
        *,
        order: Order = None,
        using: str | None = None,
        encoder: Encoder | None = None,
        notify: bool = False,
    ) -> int:
        """Publish an entry to the log in the current transaction, whether or not it is durable.

        For the arguments and errors, see `pgnotifier.durable.publish` and `notify`.

        Returns:
            The id of the entry.
        """
        session = DjangoSession(connections[using or self.database])
        write = _write_lazily if encoder is None else encoder
        return publish_in(
            session, self.name, payload, key, order=order, encoder=write, notify=notify
        )

    def publish_many(
        self,
        payloads: Iterable[Any],
        key: Key = None,
        *,
        order: Order = None,
        using: str | None = None,
        encoder: Encoder | None = None,
        notify: bool = False,
    ) -> list[int]:
        """Publish an entry for each payload, in order: see `pgnotifier.durable.publish_many`.

        Returns:
            The ids of the entries, in order.
        """
        session = DjangoSession(connections[using or self.database])
        write = _write_lazily if encoder is None else encoder
        return publish_many_in(
            session, self.name, payloads, key, order=order, encoder=write, notify=notify
        )


def _write_lazily(value: Any) -> str:
    """Return the text of a lazy translation, as `DjangoJSONEncoder` does."""
    if isinstance(value, Promise):
        return str(value)
    raise TypeError


class _GapSignal(Signal):
    """The signal of a channel's gaps. Connecting a receiver also subscribes to the channel."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def connect(self, *args: Any, **kwargs: Any) -> None:
        super().connect(*args, **kwargs)
        self._channel._listen()


def find_task_problems() -> list[tuple[Channel, Hashable, Exception]]:
    """Try again to subscribe tasks that failed; return those that still fail, and why."""
    return [
        (channel, key, problem)
        for channel in sorted(Channel.all_known(), key=lambda channel: channel.name)
        for key, problem in channel.find_problems().items()
    ]
