"""Channels: signals that PostgreSQL sends."""

import logging
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, ClassVar, Self, TypeVar, overload
from weakref import ReferenceType, WeakValueDictionary

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.dispatch import Signal
from django.utils.functional import Promise

from pgnotifier._connection.publisher import check_size, make_text
from pgnotifier._connection.session import encoding_of
from pgnotifier._payload.substitutes import Encoder
from pgnotifier._registry.checks import check_channel
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.redaction import redact
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.changes import find_model, restore_values
from pgnotifier.contrib.django.known import CHANNELS
from pgnotifier.contrib.django.notifiers import get_notifier, task_dispatcher
from pgnotifier.contrib.django.running import run
from pgnotifier.contrib.django.signalling import SignalDispatcher
from pgnotifier.notification import Notification

logger = logging.getLogger("pgnotifier.django")

RECEIVERS = "receivers"
"""The id of the subscription that stands for all receivers of a channel."""

F = TypeVar("F", bound=Callable[..., Any])

_is_listener: ContextVar[bool] = ContextVar("pgnotifier_is_listener", default=False)


class Channel(Signal):
    """A channel of PostgreSQL as a signal of Django.

        orders = Channel("orders")

        @receiver(orders)  # or @orders.connect
        def recount(sender, payload, **kwargs): ...

        orders.notify({"id": 1})

    Receivers are connected, and called, as those of any signal are: with `sender`, weakly unless
    told otherwise, each once for a `dispatch_uid`, plain or async. What one raises stops no other.
    They get `payload`, the `pid` of the session that sent, the `channel`'s name, the
    `notification` with its text and time, `signal` and `sender`: the model, if `notify_on` has sent
    it, or else this channel. They are called in the process that listens, `manage.py pgnotifier`;
    those of `task()` are called by workers.

    There is one object for each name, for as long as something refers to it; one that has had a
    receiver, a task or a trigger stays.

    Attributes:
        name: The channel's.
        gap: A signal that is sent when notifications of this channel may have been missed, before
            any that come later, with `gap`: a dict of `since`, `until`, `channels`, `reason`.
        tasks: The receivers that workers call, by id.
        gap_tasks: Those that workers call for gaps, by id.
    """

    # Weak, as programs may make names of what users send, to notify of it.
    known: ClassVar[WeakValueDictionary[str, "Channel"]] = CHANNELS
    _kept: ClassVar[set["Channel"]] = set()
    _is_subscribing: ClassVar[bool] = False

    name: str
    gap: Signal
    tasks: dict[Hashable, Callable[..., Any]]
    gap_tasks: dict[Hashable, Callable[..., Any]]

    def __new__(cls, name: str, *, using: str | None = None) -> Self:
        """Return the channel of that name.

        Args:
            name: The channel's: case-sensitive, up to 63 bytes.
            using: An alias of DATABASES, of the database that it is a channel of. Default:
                `PGNOTIFIER["DATABASE"]`.

        Raises:
            ChannelNameError: PostgreSQL has no such channel.
            ImproperlyConfigured: It is known as one of another database.
        """
        found = cls.known.get(check_channel(name))
        if found is not None:
            if using is not None and using != found.database:
                raise ImproperlyConfigured(
                    f"channel {name!r} is one of database {found.database!r} already, and can't "
                    f"be one of {using!r}, too"
                )
            return found  # type: ignore[return-value]
        channel = super().__new__(cls)
        Signal.__init__(channel)
        channel.name = name
        channel.gap = _GapSignal(channel)
        channel.tasks = {}
        channel.gap_tasks = {}
        channel._options = {}
        channel._problems = {}
        channel._using = using
        cls.known[name] = channel
        return channel

    def __init__(self, name: str, *, using: str | None = None) -> None:
        self._using: str | None
        self._options: dict[Hashable, dict[str, Any]]
        self._problems: dict[Hashable, Exception]

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}>"

    @classmethod
    def all_known(cls) -> "list[Channel]":
        """Return the channels that there are now."""
        # A list of references is made at once, whatever other threads do meanwhile.
        return [one for ref in cls.known.valuerefs() if (one := ref()) is not None]

    def keep(self) -> None:
        """Stay, even if nothing refers to this channel any more."""
        self._kept.add(self)

    @property
    def database(self) -> str:
        """The alias of the database that it is a channel of."""
        return self._using or str(conf.get("DATABASE"))

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
        """Connect a receiver, as `django.dispatch.Signal.connect` does; or decorate one.

        Returns:
            The receiver; a decorator, if none was given.
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

    @overload
    def task(
        self,
        fn: F,
        *,
        id: Hashable = None,
        on_gap: Callable[..., object] | None = None,
        **options: Any,
    ) -> F: ...

    @overload
    def task(
        self,
        fn: None = None,
        *,
        id: Hashable = None,
        on_gap: Callable[..., object] | None = None,
        **options: Any,
    ) -> Callable[[F], F]: ...

    def task(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        id: Hashable = None,
        on_gap: Callable[..., object] | None = None,
        **options: Any,
    ) -> Any:
        """Have a receiver called by a worker: by Celery's, RQ's, or one of Django's tasks.

            @orders.task(id="invoice", queue="low")
            def invoice(sender, payload, **kwargs): ...

        Which of them, `PGNOTIFIER["DISPATCHER"]` says. It gets what other receivers get; its
        `notification` is made anew in the worker, with the time at which it runs.

        Args:
            fn: A receiver, sync or async; a decorator is returned if none is given.
            id: Names the task. Default: `"module.qualname"` of the function.
            on_gap: Called by a worker, too, with `gap`, when notifications may have been missed.
            options: Those of the dispatcher (`queue=` …), and `batch=`, `debounce=`, `key=`.

        What the dispatcher refuses, `manage.py check` says, and `manage.py pgnotifier` doesn't
        start: nothing is raised here, where every process of the project comes by.

        Returns:
            The receiver.
        """
        if fn is None:
            return lambda fn: self.task(fn, id=id, on_gap=on_gap, **options)
        key = f"{fn.__module__}.{fn.__qualname__}" if id is None else id
        self._options[key] = {**options, "on_gap": None if on_gap is None else run}
        self.tasks[key] = fn
        if on_gap is not None:
            self.gap_tasks[gap_id(key)] = on_gap
        self.keep()
        self._try_to_subscribe(key)
        return fn

    @classmethod
    def start_subscribing(cls) -> None:
        """Subscribe what there is, and from now on whatever comes: the apps are ready."""
        Channel._is_subscribing = True
        for channel in cls.all_known():
            if channel.receivers or channel.gap.receivers:
                channel._listen()
            for key in [*channel._options]:
                channel._try_to_subscribe(key)

    def find_problems(self) -> dict[Hashable, Exception]:
        """Return why tasks couldn't be subscribed, by id, having tried these once more."""
        for key in [*self._problems]:
            self._try_to_subscribe(key)
        return dict(self._problems)

    def _listen(self) -> None:
        """Subscribe to notifications and gaps, unless that is done, or too early."""
        self.keep()
        if not self._is_subscribing:
            return
        notifier = get_notifier(self.database)
        if RECEIVERS not in notifier.get_subscriptions().get(self.name, {}):
            notifier.subscribe(
                RECEIVERS,
                self.name,
                self.deliver,
                notifier.is_running(),
                dispatcher=SignalDispatcher.shared(notifier),
                on_gap=self.deliver_gap,
            )

    def subscribe_tasks(self) -> None:
        """Subscribe the tasks once more, now that they go through another dispatcher.

        Raises:
            ImproperlyConfigured: There is no such dispatcher.
            PgNotifierError: Whatever `Notifier.subscribe` raises.
        """
        for key in self._options:
            self._subscribe(key)

    def _try_to_subscribe(self, key: Hashable) -> None:
        """Subscribe a task, unless it is too early; note why, if that can't be."""
        if not self._is_subscribing:
            return
        try:
            self._subscribe(key)
        except Exception as exc:  # noqa: BLE001 - a dispatcher may be anybody's
            self._problems[key] = exc
            what = (
                "tasks aren't" if isinstance(exc, ImproperlyConfigured) else f"task {key!r} isn't"
            )
            _warn_once(redact(f"{what} subscribed: {exc}"))

    def _subscribe(self, key: Hashable) -> None:
        notifier = get_notifier(self.database)
        through = task_dispatcher(self.database)
        live = notifier.is_running()
        notifier.subscribe(key, self.name, run, live, dispatcher=through, **self._options[key])
        self._problems.pop(key, None)

    def deliver(self, arrived: Notification) -> list[Exception]:
        """Call the receivers with a notification; return what they have raised."""
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
        """Call the receivers of `gap`; return what they have raised."""
        responses = self.gap.send_robust(self, gap=arrived.payload, channel=self.name)
        return [response for _, response in responses if isinstance(response, Exception)]

    def _log_robust_failure(self, receiver: Any, err: Exception) -> None:
        if not _is_listener.get():  # which reports it itself
            super()._log_robust_failure(receiver, err)  # type: ignore[misc]

    def live_receivers(self) -> list[Callable[..., Any]]:
        """Return the receivers that haven't been garbage collected, whatever their sender."""
        held = [entry[1] for entry in self.receivers]
        found = [one() if isinstance(one, ReferenceType) else one for one in held]
        return [one for one in found if one is not None]

    # --- sending ---

    def notify(
        self, payload: Any = "", using: str | None = None, encoder: Encoder | None = None
    ) -> None:
        """Send a notification when the transaction commits; now, if there is none.

        Within `atomic()` it belongs to the transaction: PostgreSQL sends it with the COMMIT, and
        forgets it with a ROLLBACK, a savepoint's included.

        Args:
            payload: The value. What JSON or a Python literal has a type for arrives as it is. A
                date, datetime, time, timedelta, Decimal, UUID or lazy text arrives as the str
                that `DjangoJSONEncoder` makes of it, an Enum as its value, a dataclass as a dict.
            using: An alias of DATABASES. Default: the channel's own.
            encoder: Returns what is to be sent in place of a value of another type; or a
                subclass of `json.JSONEncoder`, whose `default` does.

        Raises:
            PayloadEncodingError: Nothing carries the value.
            PayloadTooLargeError: Written, it has over 7,999 bytes.
            django.db.Error: PostgreSQL refused.
        """
        text = make_text(self.name, payload, _write_lazily if encoder is None else encoder)
        with connections[using or self.database].cursor() as cursor:
            # Before the server does: its error would end the caller's transaction.
            check_size(self.name, text, encoding_of(cursor.connection))
            cursor.execute("SELECT pg_catalog.pg_notify(%s, %s)", [self.name, text])

    async def anotify(
        self, payload: Any = "", using: str | None = None, encoder: Encoder | None = None
    ) -> None:
        """Send a notification: see `notify`."""
        await sync_to_async(self.notify)(payload, using, encoder)


def _write_lazily(value: Any) -> str:
    """Return the text of a lazy translation, as `DjangoJSONEncoder` does."""
    if isinstance(value, Promise):
        return str(value)
    raise TypeError


class _GapSignal(Signal):
    """The signal of a channel's gaps; to connect to it is enough to have the channel heard."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def connect(self, *args: Any, **kwargs: Any) -> None:
        super().connect(*args, **kwargs)
        self._channel._listen()


def gap_id(id: Hashable) -> Hashable:
    """Return the id under which a subscription is told of gaps."""
    return (*id, "gap") if isinstance(id, tuple) else (id, "gap")


@lru_cache(256)
def _warn_once(text: str) -> None:
    """Warn of what is wrong, for workers, which run no checks."""
    level = logging.DEBUG if conf.runs_checks() else logging.WARNING
    logger.log(level, "%s", text, extra=about("not_subscribed"))


def find_task_problems() -> list[tuple[Channel, Hashable, Exception]]:
    """Return the tasks that can't be subscribed, and why, having tried these once more."""
    return [
        (channel, key, problem)
        for channel in sorted(Channel.all_known(), key=lambda channel: channel.name)
        for key, problem in channel.find_problems().items()
    ]
