"""Relay an outbox: forward what was enqueued in transactions from the log to the broker."""

import asyncio
from collections.abc import Hashable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from celery import Celery

from pgnotifier.contrib._queues.patterns import check_patterns
from pgnotifier.contrib._queues.relays import RelayDispatcher, check_name
from pgnotifier.contrib.celery.broker import Broker
from pgnotifier.contrib.celery.dispatcher import check_app
from pgnotifier.contrib.celery.inventory import Enqueued
from pgnotifier.contrib.celery.outbox_messages import channel_of, subscription_of
from pgnotifier.contrib.celery.relaying import Relay, Suspicion
from pgnotifier.contrib.celery.tasks import AppTasks
from pgnotifier.dispatch import Batch
from pgnotifier.errors import ConfigurationError, ConnectionFailedError

if TYPE_CHECKING:
    from pgnotifier.dispatch import Subscription
    from pgnotifier.notifier import Notifier

RELAYED = "relayed"


class OutboxDispatcher(RelayDispatcher):
    """Forwards the messages of an outbox to the broker of a Celery app.

    Finished messages are sent as they are. For tasks that were enqueued from SQL, the app makes the
    message.

    While the broker is down, everything waits in the log, in order. A message that the broker will
    never accept, or that can't be read, becomes a dead letter with the reason, and doesn't hold up
    those after it. If the broker's answer was lost, a message is sent twice, with the same task id
    and the same delivery tag.
    """

    batch_size: ClassVar[int] = 5000

    def __init__(
        self, app: Celery, name: str = "default", *, allow: Iterable[str] | None = None
    ) -> None:
        """Make a dispatcher; nothing is connected yet.

        Args:
            app: The app with the broker and the queues.
            name: The name of the outbox.
            allow: The names, or patterns such as `shop.tasks.*`, of the tasks that may be enqueued
                from SQL. Default: the tasks that are registered with the app.

        Raises:
            ArgumentTypeError: An argument is of the wrong type.
        """
        self._app = check_app(app)
        super().__init__(name, channel_of(check_name(name)), subscription_of(self._app.main or ""))
        self._allow = check_patterns(allow)
        self._held: Notifier | None = None  # which the app keeps, while it has the subscription
        self._broker = Broker(self._app)
        self._suspicion = Suspicion()
        self._is_alone = False

    def __repr__(self) -> str:
        return f"<OutboxDispatcher of {self._app.main!r}, outbox {self.name!r}>"

    @property
    def app(self) -> Any:
        """The app with the broker that it forwards to."""
        return self._app

    @property
    def allow(self) -> tuple[str, ...] | None:
        """The patterns of the tasks that may be enqueued from SQL, as they were given."""
        return self._allow

    def relays_for(self, notifier: "Notifier") -> bool:
        """Return whether a notifier has the subscription that this dispatcher delivers."""
        return self._held is notifier

    def attach(self, notifier: "Notifier") -> None:
        """Remember which notifier uses this dispatcher, so that the app's commands start it.

        Raises:
            ConfigurationError: Another notifier uses it already.
        """
        super().attach(notifier)
        AppTasks.of(self._app).add(self)

    def bind(self, subscription: "Subscription") -> None:
        """Check that the subscription is the one that `relay_to` makes.

        Raises:
            ConfigurationError: It is another one.
        """
        super().bind(subscription)
        self._held = self.notifier
        AppTasks.of(self._app).hold(self)

    def unbind(self, subscription: "Subscription") -> None:  # noqa: ARG002
        """Let go of the dispatcher and its notifier."""
        self._held = None
        AppTasks.of(self._app).let_go(self)

    def open(self) -> None:
        """Check that no other app relays this outbox.

        Raises:
            ConfigurationError: Another one does.
        """
        self._is_alone = False
        if _is_on_event_loop():  # `start()` calls it again, in a thread
            return
        with suppress(ConnectionFailedError):  # it is checked again before anything is sent
            self._check_alone()

    def dispatch(self, batch: Batch) -> None:
        """Forward each delivery, and acknowledge it once the broker has acknowledged its message.

        Raises:
            ConfigurationError: Another app relays the same outbox.
            Exception: The broker is down. The type depends on its client.
        """
        if not self._is_alone:
            self._check_alone()
        self._app.set_current()  # for what receivers of signals do
        self._app.finalize(auto=True)
        with self._broker.lease() as lease:
            if lease.publisher is None:
                lease.publisher = Relay(
                    self._app, lease.producer, self._broker.has_failed, self._allow, self._suspicion
                )
            forwarding: Relay = lease.publisher
            try:
                forwarding.forward(batch)
            finally:
                self._count(forwarding)

    def targets(self) -> list[Any]:
        """Return nothing: which task a message calls isn't known before it arrives."""
        return []

    def inventory(self) -> dict[tuple[Hashable, str], Enqueued]:
        """Return its subscription, by id and channel."""
        row = Enqueued(self.id, self.channel, "as enqueued", "as enqueued", RELAYED)
        return {(self.id, self.channel): row}

    def is_reachable(self) -> bool:
        """Return whether a connection to the broker can be made."""
        return self._broker.is_reachable()

    def close(self) -> None:
        """Close the connection to the broker."""
        self._broker.close()

    def _count(self, relay: Relay) -> None:
        forwarded, self._refused = relay.take_counts(self._refused)
        self.count(forwarded)

    def _check_alone(self) -> None:
        """Check that no other app was the first to relay this outbox.

        Raises:
            ConfigurationError: Another app was. Each of them would send everything.
            ConnectionFailedError: The database can't be reached.
        """
        notifier = self.notifier
        if notifier is None:
            return
        prefix = subscription_of("")
        names = [one for one in notifier.find_durable(self.channel) if one.startswith(prefix)]
        first = names[0] if names else self.id
        if first != self.id:
            other = first.removeprefix(prefix)
            raise ConfigurationError(
                f"the outbox {self.name!r} is relayed by the app {other!r} already, so the app "
                f"{self._app.main!r} would send each of its tasks a second time; give one of them "
                f"an outbox of its own, with name=…; or if {other!r} is no more, run: pgnotifier "
                f"positions forget {first!r} --channel {self.channel!r}"
            )
        self._is_alone = True


class Relayed(NamedTuple):
    """How a notifier relays an outbox; with None for what was never given.

    Attributes:
        exists: Whether it relays the outbox at all.
        allow: The tasks that may be enqueued from SQL.
        max_age: How long a message may wait.
    """

    exists: bool = False
    allow: tuple[str, ...] | None = None
    max_age: timedelta | None = None


def find_relayed(outbox: Any, notifier: "Notifier") -> Relayed:
    """Return how a notifier relays an outbox.

    Args:
        outbox: A `CeleryOutbox`.
        notifier: Any notifier.
    """
    durability = notifier.get_durability(outbox.subscription, outbox.channel)
    for one in AppTasks.of(outbox.app).dispatchers:
        if (
            durability is not None
            and isinstance(one, OutboxDispatcher)
            and one.channel == outbox.channel
            and one.relays_for(notifier)
        ):
            return Relayed(exists=True, allow=one.allow, max_age=durability.max_age)
    return Relayed()


def _is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
