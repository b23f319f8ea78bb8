"""AsyncioDispatcher: await coroutine functions on the user's event loop."""

import asyncio
import inspect
from collections.abc import Iterable
from contextlib import nullcontext
from contextvars import copy_context
from typing import ClassVar

from pgnotifier.current import called_for
from pgnotifier.dispatch import Batch, Delivery, Subscription
from pgnotifier.dispatchers.in_process import check_in_process, is_generator
from pgnotifier.dispatchers.ordered_queue import LaneDispatcher, LaneTarget
from pgnotifier.dispatchers.threads import check_positive
from pgnotifier.errors import ArgumentTypeError, ConfigurationError, DispatcherMismatchError
from pgnotifier.notification import Entry

RESUME = 1.0
"""Seconds after which the remaining deliveries go on when one of our tasks was cancelled."""


class AsyncioDispatcher(LaneDispatcher):
    """Awaits `async def` callbacks on an event loop, several at a time.

        notifier = Notifier(conf, dispatcher=AsyncioDispatcher())

        @notifier.on("orders")
        async def push(id, channel, payload, pid): ...

        async def main():
            async with notifier:
                ...

    The loop is the one that runs where the notifier is started: by `async with`, or by `start()`.
    Deliveries to one subscription, its `on_gap` included, are awaited one by one, in order; those
    to several subscriptions, at the same time. Plain functions are called on the loop, too, and
    mustn't block: to fill an `asyncio.Queue`, say. If a callback raises, that is reported, and
    nothing stops.

    The notifier's methods are not coroutines. `subscribe()` and others wait for the server; on a
    loop that has other work to do, call them with `asyncio.to_thread()`.
    """

    starts_listener: ClassVar[bool] = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_tasks: int = 100,
        ordered: bool = True,
        max_pending: int = 1_000,
    ) -> None:
        """Make one.

        Args:
            loop: Where callbacks run. Default: the loop that runs where the notifier is started.
            max_tasks: How many callbacks may run at a time.
            ordered: Whether a subscription's callback is awaited before it is called again.
            max_pending: How many deliveries may wait on the loop; more stay in the notifier's
                buffer. A subscription that can't keep up holds up the others once it has this many
                waiting: give it a dispatcher of its own.

        Raises:
            ArgumentTypeError: The loop is something else.
            ConfigurationError: A number is below 1.
        """
        if loop is not None and not isinstance(loop, asyncio.AbstractEventLoop):
            raise ArgumentTypeError(f"loop is an event loop of asyncio, not {loop!r:.80}")
        check_positive(max_tasks=max_tasks, max_pending=max_pending)
        super().__init__(max_pending, ordered=ordered)
        self._given = loop
        self._loop = loop
        self._max_tasks = max_tasks
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<AsyncioDispatcher, {len(self._tasks)} of {self._max_tasks} tasks>"

    def bind(self, subscription: Subscription) -> LaneTarget:
        """Check that the callback can be called here, and return it with its lane.

        Raises:
            DispatcherMismatchError: It is a generator function, or a Celery task or signature.
            UnknownOptionError: Options were given; there are none.
        """
        check_in_process(subscription)
        if is_generator(subscription.fn):
            raise DispatcherMismatchError(
                f"subscription {subscription.id!r}: {subscription.fn!r} is a generator function, "
                "which nothing would iterate over; subscribe a function or a coroutine function"
            )
        return LaneTarget(subscription.fn, self._lanes.lane(subscription))

    def open(self) -> None:
        """Find the loop.

        Raises:
            ConfigurationError: None was given, and none runs here; or it is closed.
        """
        if self._given is None and not (self._loop and self._loop.is_running()):
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                raise ConfigurationError(
                    "AsyncioDispatcher finds no running event loop here; start the notifier in a "
                    "coroutine, by `async with notifier:`, or give AsyncioDispatcher(loop=...)"
                ) from None
        if self._loop is None or self._loop.is_closed():
            raise ConfigurationError("the event loop given to AsyncioDispatcher is closed")

    def dispatch(self, batch: Batch) -> None:
        """Hand each delivery to the loop, waiting for room. If the loop is closed, report it."""
        while batch.remaining:
            loop = self._loop
            if loop is None or loop.is_closed():
                _report(batch.one_by_one())
                continue
            self._lanes.put(batch)
            if self._lanes.ready:
                try:
                    loop.call_soon_threadsafe(self._begin, context=copy_context())
                except RuntimeError:  # closed at this moment
                    _report(self._lanes.clear())

    @property
    def pending(self) -> int:
        """How many deliveries run, or wait for the loop. On a closed one, none: they failed."""
        if self._loop is not None and self._loop.is_closed():
            _report(self._lanes.clear())
            return 0
        return super().pending

    def runs_here(self) -> bool:
        """Return whether the calling code runs on the loop, which can't go on before it ends."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def forget_in_child(self) -> None:
        """Forget the parent's loop and tasks, in a forked child."""
        self._loop = self._given
        self._tasks.clear()

    # --- on the loop ---

    def _begin(self, most: int | None = None) -> None:
        wanted = self._lanes.ready if most is None else min(most, self._lanes.ready)
        for _ in range(min(wanted, self._max_tasks - len(self._tasks))):
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._begin(1)
        elif self._lanes.ready:
            # Cancelled by the end of the loop, when nothing should be added; or by somebody who
            # cancels all tasks of a loop that goes on, and then what waits has to begin some time.
            task.get_loop().call_later(RESUME, self._begin)

    async def _work(self) -> None:
        # Taken here: a loop may end before a task's first step.
        while (turn := self._lanes.take()) is not None:
            lane, delivery = turn
            try:
                await self._call(delivery)
                if isinstance(delivery.notification, Entry):
                    delivery.settle()
            finally:
                self._lanes.done(lane)

    async def _call(self, delivery: Delivery) -> None:
        binding, arrived = delivery.binding, delivery.notification
        if not (binding.live or binding.successor):  # its turn came before that of the successor
            return
        try:
            span = nullcontext() if self.tracing is None else self.tracing.calling(delivery)
            with span, called_for(arrived) if isinstance(arrived, Entry) else nullcontext():
                given = (binding.id, arrived.channel, arrived.payload, arrived.pid)
                returned = binding.target.fn(*given)
                if inspect.isawaitable(returned):
                    await returned
        except asyncio.CancelledError as exc:
            delivery.report(exc)
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # and not something that it awaited
                raise
        except BaseException as exc:  # noqa: BLE001 - sys.exit() in a callback included
            delivery.report(exc)


def _report(deliveries: Iterable[Delivery]) -> None:
    """Report deliveries that no loop will ever run."""
    for delivery in deliveries:
        exc = ConfigurationError(
            "the event loop of AsyncioDispatcher is closed; stop the notifier before the "
            "loop ends: `async with notifier:` does"
        )
        if isinstance(delivery.notification, Entry):  # it stays in the log, and is tried again
            delivery.binding.report(exc, delivery.binding.subscription, delivery.notification)
        else:
            delivery.report(exc)
