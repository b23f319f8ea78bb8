"""Dispatchers: what becomes of a notification once its subscriptions are known."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

import msgspec

from pgnotifier.errors import (
    BatchError,
    ConfigurationError,
    DispatcherMismatchError,
    UnknownOptionError,
)
from pgnotifier.notification import Notification

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier
    from pgnotifier.registry import Binding, Subscription

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

    def attach(self, notifier: "Notifier") -> None:  # noqa: B027 - optional to override
        """Learn which notifier uses this dispatcher.

        Called when the notifier is made, or when a subscription first names the
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
        """Return whether its queue can be reached now, for `/readyz` and `find_trouble()`.

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


_UNCALLED_KINDS = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)


def runs_when_called(fn: object) -> bool:
    """Tell whether a call runs its body: not that of a coroutine or generator function."""
    called = getattr(fn, "__call__", None)  # noqa: B004 - its kind is asked, not its presence
    return not any(kind(f) for kind in _UNCALLED_KINDS for f in (fn, called))


def is_generator(fn: object) -> bool:
    """Tell whether a call makes a generator, asynchronous or not."""
    called = getattr(fn, "__call__", None)  # noqa: B004 - its kind is asked, not its presence
    return any(kind(f) for kind in _UNCALLED_KINDS[1:] for f in (fn, called))


def check_in_process(subscription: "Subscription") -> None:
    """Refuse what only a dispatcher to a queue can do.

    Raises:
        DispatcherMismatchError: The callback is a Celery task or signature.
        UnknownOptionError: Options were given; there are none.
    """
    fn = subscription.fn
    if subscription.options:
        names = ", ".join(map(repr, subscription.options))
        raise UnknownOptionError(
            f"subscription {subscription.id!r}: {names}: in-process callbacks take no options; "
            "use a dispatcher to a queue, such as CeleryDispatcher, for these"
        )
    # Its class is asked, as a mock has every attribute. Not type(fn): Celery's proxies
    # of tasks pass for what they stand for.
    if hasattr(fn.__class__, "apply_async"):
        raise DispatcherMismatchError(
            f"subscription {subscription.id!r}: {fn!r} is a Celery task or signature, which "
            "would run here, in the listener; use dispatcher=CeleryDispatcher(app) to have "
            "it enqueued, or subscribe a plain function"
        )


def bind_in_process(subscription: "Subscription") -> Callback:
    """Return a subscription's callback, if a thread of this process can call it.

    Raises:
        DispatcherMismatchError: It is a coroutine or generator function, or a Celery task or
            signature.
        UnknownOptionError: Options were given; there are none.
    """
    check_in_process(subscription)
    fn = subscription.fn
    if not runs_when_called(fn):
        raise DispatcherMismatchError(
            f"subscription {subscription.id!r}: {fn!r} is a coroutine or generator function, "
            "which an in-process callback can't be: nothing would await or iterate over it; "
            "AsyncioDispatcher awaits coroutine functions"
        )
    return cast("Callback", fn)


def call(fn: Callback, delivery: Delivery) -> None:
    """Call a callback unless its subscription was removed, and report what it raises."""
    binding, arrived = delivery.binding, delivery.notification
    if not (binding.live or binding.heir):  # its turn came before that of the heir
        return
    try:
        fn(binding.id, arrived.channel, arrived.payload, arrived.pid)
    except BaseException as exc:  # noqa: BLE001 - sys.exit() in a callback included
        delivery.report(exc)


def claim(dispatcher: Dispatcher, owner: "Notifier | None", notifier: "Notifier") -> "Notifier":
    """Return the notifier that a dispatcher belongs to from now on.

    Raises:
        ConfigurationError: It belongs to another one.
    """
    if owner is not None and owner is not notifier:
        raise ConfigurationError(
            f"{dispatcher!r} serves {owner!r} already; give each notifier its own "
            f"{type(dispatcher).__name__}"
        )
    return notifier


class InlineDispatcher(Dispatcher):
    """Calls the callback in this process, in one thread, one notification after the other.

    A callback that raises, or that calls `sys.exit()`, is reported and stops nothing.
    """

    # Few, so that a payload is still in the processor's cache when its callback gets it, and is
    # gone before the garbage collector looks at it.
    batch_size = 100

    def bind(self, subscription: "Subscription") -> Callback:
        """Check that the callback can be called here, and return it.

        Raises:
            DispatcherMismatchError: It is a coroutine or generator function, or a Celery task
                or signature.
            UnknownOptionError: Options were given; there are none.
        """
        return bind_in_process(subscription)

    def dispatch(self, batch: Batch) -> None:
        """Call each callback once; never raises."""
        # As `one_by_one` does it, but without the cost of a generator: that is a tenth of this.
        for batch._done, delivery in enumerate(batch.rest(), batch._done + 1):  # noqa: B020, SLF001
            if batch._cancelled:  # noqa: SLF001
                return
            binding = delivery.binding
            if not binding.live:
                delivery.pass_on()
                continue
            arrived = delivery.notification
            try:
                binding.target(binding.id, arrived.channel, arrived.payload, arrived.pid)
            except BaseException as exc:  # noqa: BLE001 - sys.exit() in a callback included
                delivery.report(exc)
