"""Dispatchers: what becomes of a notification once its subscriptions are known."""

import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from pgnotifier.errors import DispatcherMismatchError, UnknownOptionError
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
    def dispatch(self, batch: deque[Delivery]) -> None:
        """Deliver a batch, in its order.

        Take each delivery off the left once it needs no further try: on an exception,
        what is left in the batch is tried again after a pause (0.1 s, growing to 30 s). So
        a dispatcher that takes nothing off has the whole batch retried. On return
        everything counts as delivered. The batch may become empty at any moment, when
        `stop()` has waited long enough.

        A delivery that no further try can help is to be taken off and handed to
        `Delivery.report`; it must not hold up the others.
        """

    @property
    def pending(self) -> int:
        """How many deliveries it took off in `dispatch` without being done with them.

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

    def dispatch(self, batch: deque[Delivery]) -> None:
        """Call each callback once; never raises."""
        take = batch.popleft
        while True:
            try:
                delivery = take()
            except IndexError:
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
