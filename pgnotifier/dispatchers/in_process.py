"""Check and call callbacks, for the dispatchers that do so in this process."""

import inspect
from contextlib import nullcontext

from pgnotifier._runtime.tracing import Tracing
from pgnotifier.current import call_for
from pgnotifier.dispatch import Callback, Delivery, Subscription
from pgnotifier.errors import DispatcherMismatchError, UnknownOptionError
from pgnotifier.notification import Entry


def runs_when_called(fn: object) -> bool:
    """Return whether a call runs its body. For coroutine and generator functions, it doesn't."""
    called = getattr(fn, "__call__", None)  # noqa: B004 - its kind is asked, not its presence
    return not (is_generator(fn) or any(map(inspect.iscoroutinefunction, (fn, called))))


def is_generator(fn: object) -> bool:
    """Return whether a call makes a generator, asynchronous or not."""
    called = getattr(fn, "__call__", None)  # noqa: B004 - its kind is asked, not its presence
    kinds = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(kind(one) for kind in kinds for one in (fn, called))


def check_in_process(subscription: Subscription) -> None:
    """Refuse a subscription that only a dispatcher to a queue can serve.

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
    # The class is asked, because a mock has every attribute. Not type(fn), because Celery's
    # proxies of tasks only pretend to have the task's class.
    if hasattr(fn.__class__, "apply_async"):
        raise DispatcherMismatchError(
            f"subscription {subscription.id!r}: {fn!r} is a Celery task or signature, which "
            "would run here, in the listener; use dispatcher=CeleryDispatcher(app) to have "
            "it enqueued, or subscribe a plain function"
        )


def bind_in_process(subscription: Subscription) -> Callback:
    """Return a subscription's callback, if a thread of this process can call it.

    Raises:
        DispatcherMismatchError: It is a coroutine or generator function, or a Celery task or
            signature.
        UnknownOptionError: Options were given; there are none.
    """
    check_in_process(subscription)
    fn: Callback = subscription.fn
    if not runs_when_called(fn):
        raise DispatcherMismatchError(
            f"subscription {subscription.id!r}: {fn!r} is a coroutine or generator function, "
            "which an in-process callback can't be: nothing would await or iterate over it; "
            "AsyncioDispatcher awaits coroutine functions"
        )
    return fn


def call(fn: Callback, delivery: Delivery, tracing: Tracing | None = None) -> None:
    """Call a callback unless its subscription was removed, and report what it raises."""
    binding, arrived = delivery.binding, delivery.notification
    if not (binding.live or binding.successor):  # the successor has its own turn
        return
    try:
        with nullcontext() if tracing is None else tracing.calling(delivery):
            if isinstance(arrived, Entry):
                call_for(arrived, fn, binding.id)
            else:
                fn(binding.id, arrived.channel, arrived.payload, arrived.pid)
    except BaseException as exc:  # noqa: BLE001 - sys.exit() in a callback included
        delivery.report(exc)
