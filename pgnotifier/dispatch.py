"""The contract of dispatchers: what they are given, and what they have to do with it."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, overload
from weakref import ref

import msgspec

from pgnotifier.errors import (
    BatchError,
    ConfigurationError,
)
from pgnotifier.gathering import Gathering
from pgnotifier.notification import Notification

Callback = Callable[[Hashable, str, Any, int], object]
Owner = TypeVar("Owner")


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One notification for one subscription.

    Attributes:
        binding: The subscription, with the target that its dispatcher made of it.
        notification: What arrived.
    """

    binding: "Binding"
    notification: Notification

    def report(self, exc: BaseException) -> None:
        """Tell the log and `on_error` that this delivery failed and has been set aside."""
        self.binding.report(exc, self.binding.subscription, self.notification)

    def pass_on(self) -> None:
        """Have it delivered by whom the subscription belongs to by now, if there is one.

        For dispatchers, in place of delivering, when the binding isn't live: it does nothing if
        the subscription was removed or is muted.
        """
        if self.binding.heir is not None:
            self.binding.passed_on.append(self)


class Batch(Sequence[Delivery]):
    """What one call of `Dispatcher.dispatch` is to deliver: a sequence that never changes.

    Beside it stands what is acknowledged. That is done by the thread that runs `dispatch`, and
    only until it returns:

    - `one_by_one` acknowledges each delivery as the loop goes on to the next one.
    - `done(n)` acknowledges the next `n`, for dispatchers that send many at once.
    - `leave` names what is left, for dispatchers that finish deliveries out of order.

    What isn't acknowledged when `dispatch` raises or returns is tried again, in a new batch.

    `stop()` may cancel a batch from another thread at any moment, once its timeout is over. From
    then on `rest()` is empty, and nothing is tried again; to acknowledge more does no harm.
    """

    __slots__ = ("_cancelled", "_deliveries", "_done", "_in_hand", "_left")

    def __init__(self, deliveries: Iterable[Delivery] = ()) -> None:
        """Make a batch of which nothing is acknowledged.

        Args:
            deliveries: What it holds, in order.
        """
        self._deliveries = self._left = tuple(deliveries)
        self._done = 0  # of those that are left
        self._in_hand = False  # whether a loop over `one_by_one` delivers the next one
        self._cancelled = False

    def __repr__(self) -> str:
        state = ", cancelled" if self._cancelled else ""
        return f"<Batch of {len(self)} deliveries, {self.remaining} remaining{state}>"

    def __len__(self) -> int:
        return len(self._deliveries)

    @overload
    def __getitem__(self, index: int) -> Delivery: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Delivery, ...]: ...
    def __getitem__(self, index: int | slice) -> Delivery | tuple[Delivery, ...]:
        return self._deliveries[index]

    def rest(self, most: int | None = None) -> tuple[Delivery, ...]:
        """Return what isn't acknowledged, in order. Nothing, once the batch is cancelled.

        Args:
            most: How many of these to return. Default: all.
        """
        end = None if most is None else self._done + most
        return () if self._cancelled else self._left[self._done : end]

    @property
    def remaining(self) -> int:
        """How many deliveries `rest()` returns."""
        return 0 if self._cancelled else len(self._left) - self._done

    @property
    def waiting(self) -> int:
        """How many of these a loop over `one_by_one` hasn't begun with."""
        return max(0, self.remaining - self._in_hand)

    @property
    def is_cancelled(self) -> bool:
        """Whether `stop()` has given it up, so that `dispatch` should return soon."""
        return self._cancelled

    def one_by_one(self) -> Iterator[Delivery]:
        """Yield what is to be delivered now, in order, until all is done or the batch is cancelled.

        Each is acknowledged when the next one is asked for. So an exception in the loop's body, or
        a `break`, has the current one tried again. After `leave`, which says what is left, the loop
        ends. What isn't live any more is passed on instead of yielded.
        """
        left = self._left
        for delivery in self.rest():
            if self._cancelled:
                return
            if delivery.binding.live:
                self._in_hand = True
                try:
                    yield delivery
                finally:
                    self._in_hand = False
                if self._left is not left:
                    return
            else:
                delivery.pass_on()
            self._done += 1

    def done(self, count: int) -> None:
        """Acknowledge the next deliveries: they need no further try.

        Args:
            count: How many.

        Raises:
            BatchError: So many aren't left.
        """
        if not isinstance(count, int) or not 0 <= count <= len(self._left) - self._done:
            raise BatchError(
                f"done({count!r:.80}): {len(self._left) - self._done} of {len(self)} deliveries "
                "are left in the batch; acknowledge each once"
            )
        self._done += count

    def leave(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge everything but some deliveries.

        Args:
            deliveries: What is to be tried again, in order. What stands in the place of a delivery
                may be among them, such as a salvaged one.
        """
        left = tuple(deliveries)
        self._done = 0  # first: others read `remaining` meanwhile, which mustn't be negative
        self._left = left

    def cancel(self) -> None:
        """Give it up. For the notifier: any thread may call it."""
        self._cancelled = True


class Dispatcher(ABC):
    """Delivers notifications to callbacks, or to the queue whose workers run them.

    One thread of the listener, and only that one, calls `dispatch`; `bind` and `attach` are
    called by whoever subscribes. Overriding `bind` and `dispatch` is enough.
    """

    starts_listener: ClassVar[bool] = True
    """Whether subscribing starts a notifier that isn't running.

    False for dispatchers to a queue: their modules are imported by workers too, which
    must never listen.
    """

    batch_size: ClassVar[int] = 1000
    """The most deliveries in a batch, but for one notification that makes more."""

    def attach(self, notifier: Any) -> None:  # noqa: B027 - optional to override
        """Learn which notifier uses this dispatcher.

        It is a `Notifier`. Called when that is made, or when a subscription first names the
        dispatcher; again for each further notifier.
        """

    @abstractmethod
    def bind(self, subscription: "Subscription") -> Any:
        """Check a subscription and return its target, which each delivery will carry.

        Called by `subscribe()` before anything is registered, and possibly again for the
        same id and channel, which replaces the earlier target. No lock of the notifier's is
        held, and several threads may call it at the same time: should they subscribe the same
        id to the same channel, it is called again, until what came last is what is registered.

        Raises:
            PgNotifierError: The callback or the options can't serve; `subscribe()` lets it
                through and nothing changes.
        """

    def unbind(self, subscription: "Subscription") -> None:  # noqa: B027
        """Forget a subscription that was removed. Deliveries on their way may still come.

        As for `bind`, no lock is held.
        """

    @abstractmethod
    def dispatch(self, batch: Batch) -> None:
        """Deliver a batch, in its order, and acknowledge what needs no further try.

        What isn't acknowledged when it raises is tried again after a pause (0.1 s, growing to
        30 s), unless it was unsubscribed or muted meanwhile. To return without having acknowledged
        everything counts as a failure, too: it is logged as a `BatchError`, and the rest is tried
        again. A dispatcher that acknowledges nothing thus delivers everything again and again, but
        none loses a delivery by an early `return`.

        A delivery that no further try can help is to be handed to `Delivery.report` and
        acknowledged; it must not hold up the others. One for which `binding.live` is false is to
        be handed to `Delivery.pass_on` and acknowledged, as `Batch.one_by_one` does.

        A dispatcher that hands on to threads or tasks of this process acknowledges a delivery when
        it hands it on, and counts it as `pending` until it is done.
        """

    @property
    def pending(self) -> int:
        """How many deliveries it has acknowledged in `dispatch` without being done with them.

        For dispatchers that hand on to threads or tasks of this process; `stop()` waits for these.
        """
        return 0

    def abandon(self) -> None:  # noqa: B027
        """Forget what is pending and hasn't begun: `stop()` has waited long enough."""

    def take_back(self, binding: "Binding") -> list[Delivery]:  # noqa: ARG002
        """Give up and return what is pending of a binding and hasn't begun, in order.

        Called when the id was subscribed anew in a way that this binding can't deliver in.
        """
        return []

    def runs_here(self) -> bool:
        """Return whether what is pending waits for the calling code, so that it can't wait."""
        return False

    def details(self) -> Mapping[str, Any]:
        """Return what `Notifier.status()` is to tell of this dispatcher, JSON-able.

        Called by any thread at any time.
        """
        return {}

    def is_reachable(self) -> bool:
        """Return whether its queue can be reached now, for `/readyz` and `readiness_problems()`.

        Called on a thread of its own, once at a time. After 5 s it counts as no.
        """
        return True

    def open(self) -> None:  # noqa: B027
        """Make ready for `dispatch`. Called by `start()`, before anything is heard.

        Raises:
            PgNotifierError: It can't be; `start()` lets it through, and nothing was started.
        """

    def close(self) -> None:  # noqa: B027
        """Let go of connections. Called when the listener stops; `dispatch` may follow."""

    def forget_in_child(self) -> None:  # noqa: B027
        """Forget threads and what is pending, in a forked child: these are the parent's."""


def claim(dispatcher: Dispatcher, owner: "ref[Owner] | None", notifier: Owner) -> "ref[Owner]":
    """Return a weak reference to the notifier that a dispatcher belongs to from now on.

    A strong one would keep the notifier for ever: it has the dispatcher in its registry, into which
    the garbage collector can't look. While a notifier runs, something else keeps it.

    Raises:
        ConfigurationError: It belongs to another one.
    """
    before = None if owner is None else owner()
    if before is not None and before is not notifier:
        raise ConfigurationError(
            f"{dispatcher!r} serves {before!r} already; give each notifier its own "
            f"{type(dispatcher).__name__}"
        )
    return ref(notifier)


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
        muted: Whether this subscription is muted; its channel may be, besides.
        gathering: How many notifications become one delivery, if so.
        on_gap: The same as `fn`, but for gaps; None if it isn't told of them.
        tells_gaps: Whether it is itself another one's `on_gap`.
    """

    id: Hashable
    channel: str
    fn: Any
    dispatcher: Dispatcher
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    muted: bool = False
    gathering: Gathering | None = None
    on_gap: Any = None
    tells_gaps: bool = False

    def for_gaps(self) -> "Subscription | None":
        """Return the subscription that is told of gaps, with the id `(id, "gap")`."""
        if self.on_gap is None:
            return None
        parts = self.id if isinstance(self.id, tuple) else (self.id,)
        return replace(
            self, id=(*parts, "gap"), fn=self.on_gap, gathering=None, on_gap=None, tells_gaps=True
        )


class Binding:
    """A subscription together with the target that its dispatcher made of it.

    What waits for a subscription holds its binding. So subscribing the id anew changes the
    binding in place, and what waits goes to the new callback. Where that can't be, because another
    dispatcher or another way of gathering is to deliver, the binding gets an heir, and its
    deliverer hands on to that what waits.

    Written under the notifier's lock; dispatchers read it without.

    Attributes:
        id: The subscription's id, for quick access.
        subscription: The subscription.
        gathering: The subscription's, for quick access.
        target: What `Dispatcher.bind` returned.
        report: Called with an exception, the subscription and the notification.
        on_gap: What gets a gap, if anything does.
        live: Whether it is delivered to. False while the subscription or its channel is muted,
            and for ever once it was removed or there is an heir.
        heir: The binding of the same id and channel that what waits is for.
        former: The binding whose heir this is, for as long as something waits for that.
        passed_on: What a dispatcher didn't deliver, as there is an heir.
        is_left: Whether the deliverer knows of the heir. Written by the deliverer.
    """

    __slots__ = (
        "__weakref__",
        "former",
        "gathering",
        "heir",
        "id",
        "is_left",
        "live",
        "on_gap",
        "passed_on",
        "report",
        "subscription",
        "target",
    )

    def __init__(
        self,
        subscription: Subscription,
        target: Any,
        report: Report,
        on_gap: "Binding | None" = None,
    ) -> None:
        self.id = subscription.id
        self.subscription = subscription
        self.gathering = subscription.gathering
        self.target = target
        self.report = report
        self.on_gap = on_gap
        self.live = True
        self.heir: Binding | None = None
        self.former: ref[Binding] | None = None
        self.passed_on: deque[Delivery] = deque()
        self.is_left = False

    @property
    def dispatcher(self) -> Dispatcher:
        """What delivers to it."""
        return self.subscription.dispatcher

    def earliest(self, dispatchers: Container[Dispatcher]) -> "Binding":
        """Return the binding that something still waits for, and which this is heir to in the end.

        Args:
            dispatchers: Those with a deliverer.

        Returns:
            The earliest; this one if there is none, or all are of its own dispatcher.
        """
        found, changes, one = self, False, self
        while one.former is not None and (before := one.former()) is not None:
            one = before
            changes = changes or one.dispatcher is not self.dispatcher
            if one.dispatcher in dispatchers:
                found = one
        return found if changes else self

    def can_become(self, subscription: Subscription) -> bool:
        """Return whether what waits can be delivered as another subscription wants it."""
        return (
            subscription.dispatcher is self.subscription.dispatcher
            and subscription.gathering == self.gathering
        )

    def become(self, subscription: Subscription, target: Any) -> None:
        """Stand for another subscription with the same id and channel from now on."""
        self.subscription = subscription
        self.target = target

    def leave_to(self, heir: "Binding") -> None:
        """Have what waits go to another binding. Its deliverer is to be woken afterwards."""
        heir.former = ref(self)
        self.heir = heir
        self.live = False
