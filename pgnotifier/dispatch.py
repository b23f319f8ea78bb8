"""The contract of dispatchers, which deliver to callbacks or queues: what they get and must do."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar
from uuid import UUID
from weakref import ref

import msgspec

from pgnotifier._runtime.identifying import Identifier
from pgnotifier._runtime.tracing import Tracing
from pgnotifier.acknowledging import Acknowledging
from pgnotifier.durability import Durability
from pgnotifier.gathering import Gathering
from pgnotifier.notification import Entry, Notification

Callback = Callable[[Hashable, str, Any, int], object]


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One notification for one subscription.

    Attributes:
        binding: The subscription, with the target that its dispatcher made of it.
        notification: What arrived.
    """

    binding: "Binding"
    notification: Notification

    def report(self, exc: BaseException) -> None:
        """Report to the log and to `on_error` that this delivery failed.

        The dispatcher doesn't try it again. A durable delivery is repeated later or becomes a dead
        letter, depending on its subscription's options.
        """
        self.binding.report(exc, self.binding.subscription, self.notification)
        for entry in self.entries():
            if entry.receipt is not None:
                entry.receipt.fail(entry.id, exc)

    def entries(self) -> Iterator[Entry]:
        """Yield the log entries that it consists of; none unless it is durable."""
        whole = self.notification
        yield from (one for one in whole.parts or (whole,) if isinstance(one, Entry))

    def settle(self) -> None:
        """Note that a durable delivery is done, so that it isn't repeated; a no-op for others.

        Only dispatchers with `settles_itself` call it. It also does nothing once the subscription
        was muted or removed: what wasn't delivered then mustn't count as done.
        """
        whole = self.notification
        if isinstance(whole, Entry) and self.binding.live:
            # Without a generator in the usual case: this is called for each entry.
            for entry in self.entries() if whole.parts else (whole,):
                if entry.receipt is not None and entry.receipt.covers(self.binding.mutes):
                    entry.receipt.settle(entry.id)

    def identify(self) -> UUID | None:
        """Return an id that stays the same when a durable delivery is repeated; None for others.

        Dispatchers give it to tasks and jobs, so that workers can recognise a repeat. Entries that
        were gathered may be gathered differently when they are repeated, and have another id then.
        """
        text = self.identify_as_text()
        return None if text is None else UUID(text)

    def identify_as_text(self) -> str | None:
        """Return the id from `identify` as a str, or None, without making a UUID of it."""
        whole = self.notification
        if isinstance(whole, Entry) and not whole.parts:  # without a generator in the usual case
            return self.binding.identifier.identify(whole)
        entries = list(self.entries())
        if len(entries) > 1:
            return self.binding.identifier.identify_group(entries)
        return self.binding.identifier.identify(entries[0]) if entries else None

    def pass_on(self) -> None:
        """Hand this delivery on to the binding that has replaced its own, if there is one.

        Dispatchers call this instead of delivering when the binding isn't live. It does nothing
        if the subscription was removed or is muted.
        """
        if self.binding.successor is not None:
            self.binding.passed_on.append(self)


class Batch(Acknowledging[Delivery]):
    """The deliveries for one call of `Dispatcher.dispatch`: a sequence that never changes.

    The batch also keeps track of what is acknowledged. Only the thread that runs `dispatch`
    acknowledges deliveries, in one of these ways, until `dispatch` returns:

    - `one_by_one` acknowledges each delivery when the loop asks for the next one.
    - `done(n)` acknowledges the next `n`, for dispatchers that send many at once.
    - `leave` says what is left, for dispatchers that finish deliveries out of order.

    What isn't acknowledged when `dispatch` raises or returns is tried again, in a new batch.

    `stop()` cancels a batch from another thread when its timeout is over. From then on `rest()`
    is empty and nothing is tried again. Acknowledging more does no harm.
    """

    __slots__ = ()


class Dispatcher(ABC):
    """Delivers notifications to callbacks, or to a queue that has workers to run them.

    Subclasses override `bind` and `dispatch`, and more where they need it. The listener calls
    `dispatch` on one thread only. `bind` and `attach` are called on the threads that subscribe.
    """

    starts_listener: ClassVar[bool] = True
    """Whether subscribing starts a notifier that isn't running.

    False for dispatchers to a queue: workers import the same modules and must never listen.
    """

    settles_itself: ClassVar[bool] = False
    """Whether it calls `Delivery.settle` for each delivery, once that is done.

    True for dispatchers that hand deliveries to threads or tasks of this process: what such a
    dispatcher has acknowledged may not even have begun. For all others, what is acknowledged is
    done, and the notifier settles it.
    """

    decodes: ClassVar[bool] = True
    """Whether payloads are decoded. If not, the payload is `raw`: for forwarding it unchanged."""

    is_relay: ClassVar[bool] = False
    """Whether it relays the outbox of tasks and jobs, from channels that the log reserves for that.

    True only for pgnotifier's own relays: other dispatchers would take tasks from workers.
    """

    tracing: Tracing | None = None
    """Makes spans, if the notifier that uses this dispatcher is instrumented."""

    batch_size: ClassVar[int] = 1000
    """How many deliveries a batch has at most, unless a single notification makes more."""

    def attach(self, notifier: Any) -> None:  # noqa: B027 - optional to override
        """Take the `Notifier` that uses this dispatcher from now on.

        Called when a notifier is created with the dispatcher, or a subscription first names it.
        """

    @abstractmethod
    def bind(self, subscription: "Subscription") -> Any:
        """Check a subscription, and return its target, which its deliveries refer to.

        `subscribe()` calls this before anything is registered. Another call for the same id and
        channel replaces the earlier target. Several threads may call it at the same time, without
        a lock. If they subscribe the same id to the same channel, it is called again until its
        last call was for the subscription that is registered.

        Raises:
            PgNotifierError: The callback or an option can't work. `subscribe()` raises it, and
                nothing changes.
        """

    def unbind(self, subscription: "Subscription") -> None:  # noqa: B027
        """Forget a removed subscription. Deliveries that are under way may follow.

        It is called without a lock, as `bind` is.
        """

    @abstractmethod
    def dispatch(self, batch: Batch) -> None:
        """Deliver a batch in order, and acknowledge each delivery that needs no further try.

        If it raises, what isn't acknowledged is tried again after a pause (0.1 s, growing to
        30 s), unless it was unsubscribed or muted meanwhile. If it returns before everything is
        acknowledged, a `BatchError` is logged and the rest is tried again. So an early `return`
        loses nothing, and a dispatcher that acknowledges nothing delivers everything repeatedly.

        A delivery that can never succeed must not hold up the others: call `Delivery.report` and
        acknowledge it. If `binding.live` is false, call `Delivery.pass_on` and acknowledge it, as
        `Batch.one_by_one` does.

        A dispatcher that hands deliveries to threads or tasks of this process acknowledges them
        at that moment, and counts them as `pending` until they are done. It has `settles_itself`,
        and calls `Delivery.settle` for each that is done.
        """

    @property
    def pending(self) -> int:
        """How many acknowledged deliveries aren't done yet. `stop()` waits for them.

        For dispatchers that hand deliveries to threads or tasks of this process.
        """
        return 0

    def abandon(self) -> None:  # noqa: B027
        """Discard what is pending and hasn't begun, as the timeout of `stop()` is over."""

    def take_back(self, binding: "Binding") -> list[Delivery]:  # noqa: ARG002
        """Return the deliveries of a replaced binding that haven't begun, in order."""
        return []

    def runs_here(self) -> bool:
        """Return whether pending deliveries wait for the caller, so it mustn't wait for them."""
        return False

    def details(self) -> Mapping[str, Any]:
        """Return JSON-able values for `Notifier.status()`. Any thread may call it at any time."""
        return {}

    def is_reachable(self) -> bool:
        """Return whether its queue can be reached now, for `/readyz` and `readiness_problems()`.

        Called on a separate thread, once at a time. No answer within 5 s counts as False.
        """
        return True

    def open(self) -> None:  # noqa: B027
        """Prepare for `dispatch`. Called by `start()` before anything is received.

        Raises:
            PgNotifierError: It can't dispatch. `start()` raises it, and nothing is started.
        """

    def close(self) -> None:  # noqa: B027
        """Close connections. Called when the listener stops; `dispatch` may follow."""

    def forget_in_child(self) -> None:  # noqa: B027
        """Forget threads and pending deliveries in a forked child: they belong to the parent."""


Report = Callable[[BaseException, "Subscription", Notification], None]


@dataclass(frozen=True, slots=True)
class Subscription:
    """An id and a channel bound to a callback or signature and its dispatcher.

    Attributes:
        id: Any hashable; unique on its channel.
        channel: The channel's name.
        fn: The callback, or what the dispatcher takes instead (a Celery signature, say).
        dispatcher: What delivers to it.
        options: The dispatcher's options, as given to `subscribe()`.
        muted: Whether this subscription is muted. Its channel may be muted, too.
        gathering: How several notifications become one delivery; None if they don't.
        on_gap: What gaps are delivered to, if anything; like `fn`.
        delivers_gaps: Whether it delivers the gaps of another subscription.
        durability: How it reads the log, if it is durable; None if it listens.
    """

    id: Hashable
    channel: str
    fn: Any
    dispatcher: Dispatcher
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    muted: bool = False
    gathering: Gathering | None = None
    on_gap: Any = None
    delivers_gaps: bool = False
    durability: Durability | None = None

    def for_gaps(self) -> "Subscription | None":
        """Return the subscription that gets the gaps, with the id `(id, "gap")`, if any."""
        if self.on_gap is None:
            return None
        parts = self.id if isinstance(self.id, tuple) else (self.id,)
        return replace(
            self,
            id=(*parts, "gap"),
            fn=self.on_gap,
            gathering=None,
            on_gap=None,
            delivers_gaps=True,
        )


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Binding:
    """A subscription together with the target that its dispatcher made of it.

    Waiting deliveries refer to a binding. Subscribing the id again changes the binding in place,
    so that they go to the new callback. If another dispatcher or another way of gathering is to
    deliver, this isn't possible. Then the binding gets a successor, and its deliverer hands the
    waiting deliveries on to the successor.

    Written under the notifier's lock; dispatchers read it without a lock.

    Attributes:
        id: The subscription's id, for quick access.
        subscription: The subscription.
        gathering: The subscription's gathering, for quick access.
        target: What `Dispatcher.bind` returned.
        report: Called with an exception, the subscription and the notification.
        on_gap: The binding that gets the gaps, if any.
        live: Whether it is delivered to. False while the subscription or its channel is muted,
            and for good once it was removed or has a successor.
        mutes: How often it has been muted.
        successor: The binding of the same id and channel that has replaced this one.
        former: The binding that this one has replaced, as long as something waits for it.
        passed_on: What a dispatcher didn't deliver because there is a successor.
        is_left: Whether the deliverer knows about the successor. Written by the deliverer.
    """

    subscription: Subscription
    target: Any
    report: Report
    on_gap: "Binding | None" = None
    id: Hashable = field(init=False)
    gathering: Gathering | None = field(init=False)
    live: bool = field(init=False, default=True)
    mutes: int = field(init=False, default=0)
    successor: "Binding | None" = field(init=False, default=None)
    former: "ref[Binding] | None" = field(init=False, default=None)
    passed_on: deque[Delivery] = field(init=False, default_factory=deque)
    is_left: bool = field(init=False, default=False)
    _identifier: Identifier | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.id = self.subscription.id
        self.gathering = self.subscription.gathering

    @property
    def identifier(self) -> Identifier:
        """What the ids of its deliveries are derived from."""
        if self._identifier is None:
            self._identifier = Identifier(self.id, self.subscription.channel)
        return self._identifier

    @property
    def dispatcher(self) -> Dispatcher:
        """What delivers to it."""
        return self.subscription.dispatcher

    def earliest(self, dispatchers: Container[Dispatcher]) -> "Binding":
        """Return the earliest of the replaced bindings that still have deliveries waiting.

        Args:
            dispatchers: The dispatchers that have a deliverer.

        Returns:
            This binding if there is none, or all have the same dispatcher.
        """
        found, changes, one = self, False, self
        while one.former is not None and (before := one.former()) is not None:
            one = before
            changes = changes or one.dispatcher is not self.dispatcher
            if one.dispatcher in dispatchers:
                found = one
        return found if changes else self

    def latest(self) -> "Binding":
        """Return the last of the bindings that have replaced this one, or this one."""
        found = self
        while found.successor is not None:
            found = found.successor
        return found

    def can_become(self, subscription: Subscription) -> bool:
        """Return whether waiting deliveries can go to another subscription in the same way."""
        return (
            subscription.dispatcher is self.subscription.dispatcher
            and subscription.gathering == self.gathering
        )

    def become(self, subscription: Subscription, target: Any) -> None:
        """Switch to another subscription with the same id and channel."""
        self.subscription = subscription
        self.target = target

    def leave_to(self, successor: "Binding") -> None:
        """Hand what waits to another binding. The caller wakes the deliverer afterwards."""
        successor.former = ref(self)
        self.successor = successor
        self.live = False
