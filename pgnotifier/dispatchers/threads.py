"""ThreadDispatcher: call callbacks in threads of this process."""

import logging
import os
import threading
from contextvars import copy_context
from typing import Any

from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier.dispatch import Batch, Subscription
from pgnotifier.dispatchers.in_process import bind_in_process, call
from pgnotifier.dispatchers.ordered_queue import LaneDispatcher, LaneTarget
from pgnotifier.errors import ConfigurationError
from pgnotifier.notification import Entry
from pgnotifier.settings import is_whole

logger = logging.getLogger("pgnotifier.threads")

IDLE = 10.0
"""Seconds after which a thread that has nothing to do ends."""


class ThreadDispatcher(LaneDispatcher):
    """Calls callbacks in this process, several at a time, in threads.

        notifier = Notifier(conf, dispatcher=ThreadDispatcher(max_workers=8))

    For callbacks that wait for other servers, or for files. Deliveries to one subscription, its
    `on_gap` included, are made one by one, in order; those to several subscriptions, at the same
    time. If a callback raises or calls `sys.exit()`, that is reported, and nothing stops.

    `stop()` waits for running callbacks and for waiting deliveries alike, within its timeout.
    """

    def __init__(
        self, max_workers: int = 8, *, ordered: bool = True, max_pending: int = 1_000
    ) -> None:
        """Make one; threads are started when there is something to call.

        Args:
            max_workers: How many threads there may be.
            ordered: Whether a subscription's callback is called by one thread at a time, in order.
            max_pending: How many deliveries may wait for a thread; more stay in the notifier's
                buffer. A subscription that can't keep up holds up the others once it has this many
                waiting: give it a dispatcher of its own.

        Raises:
            ConfigurationError: A number is below 1.
        """
        check_positive(max_workers=max_workers, max_pending=max_pending)
        self._max_workers = max_workers
        super().__init__(max_pending, ordered=ordered)
        self._warn = LogThrottle(logger)

    def __repr__(self) -> str:
        return f"<ThreadDispatcher, {self._lanes.workers} of {self._max_workers} threads>"

    def bind(self, subscription: Subscription) -> LaneTarget:
        """Check that the callback can be called here, and return it with its lane.

        Raises:
            DispatcherMismatchError: It is a coroutine or generator function, or a Celery task
                or signature.
            UnknownOptionError: Options were given; there are none.
        """
        return LaneTarget(bind_in_process(subscription), self._lanes.lane(subscription))

    def dispatch(self, batch: Batch) -> None:
        """Hand each delivery to a thread, waiting for one to be free.

        Raises:
            RuntimeError: There is no thread, and none can be started.
        """
        is_short = False
        while batch.remaining or (is_short and not batch.is_cancelled and self._lanes.pause()):
            self._lanes.put(batch)
            try:
                is_short = not self._start_workers(self._lanes.hire(self._max_workers))
            except RuntimeError:
                batch.leave([*self._lanes.clear(), *batch.rest()])
                raise

    def close(self) -> None:
        """End the threads that have nothing to do."""
        self._lanes.dismiss()

    def _start_workers(self, count: int) -> bool:
        """Start threads. If that fails, go on with the existing ones.

        Returns:
            Whether all were started.

        Raises:
            RuntimeError: There are none.
        """
        for started in range(count):
            # In the deliverer's context, by which `called_by_callback` finds the notifier.
            thread = threading.Thread(
                target=copy_context().run, args=(self._work,), name="pgnotifier-worker", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as exc:
                left = self._lanes.discount(count - started)
                if not left:
                    raise
                self._warn(
                    "no further thread can be started (%s); callbacks are called by %d of %d",
                    exc,
                    left,
                    self._max_workers,
                    extra=about("no_thread", dispatcher="ThreadDispatcher", count=left),
                )
                return False
        return True

    def _work(self) -> None:
        while self._call_next():
            pass

    def _call_next(self) -> bool:
        """Make the next delivery; return whether this thread is to wait for another one.

        A method of its own, so that no variable keeps an entry alive while it waits: a durable
        subscription that was muted or removed is held until all of its entries are gone.
        """
        turn = self._lanes.wait(IDLE)
        if turn is None:
            return False
        lane, delivery = turn
        process = os.getpid()
        try:
            call(delivery.binding.target.fn, delivery, self.tracing)
            if isinstance(delivery.notification, Entry):
                delivery.settle()
        finally:
            if os.getpid() == process:
                self._lanes.done(lane)
        return os.getpid() == process  # the callback may have forked, and return in the child, too


def check_positive(**numbers: Any) -> None:
    """Raise unless all are integers from 1 on.

    Raises:
        ConfigurationError: One isn't.
    """
    for name, number in numbers.items():
        if not is_whole(number) or number < 1:
            raise ConfigurationError(f"{name} must be an integer from 1 on, not {number!r:.80}")
