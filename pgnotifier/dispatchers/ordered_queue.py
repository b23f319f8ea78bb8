"""A queue of deliveries for threads or tasks, with a lane that keeps each subscription in order."""

import threading
from collections import deque
from time import monotonic
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary, ref

from pgnotifier._runtime.process import renew_in_children
from pgnotifier.dispatch import Batch, Binding, Delivery, Dispatcher, Subscription
from pgnotifier.dispatchers.claiming import claim

CHECK = 0.1
"""Seconds after which a full dispatcher checks whether `stop()` has cancelled its batch."""


class Lane:
    """The deliveries of one subscription that wait for the one before them."""

    __slots__ = ("__weakref__", "busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.waiting: deque[Delivery] = deque()


Turn = tuple[Lane, Delivery]
"""A delivery that may begin, and its lane, to call `done` with afterwards."""


class Lanes:
    """Deliveries on their way from a dispatcher to its workers, bounded in number.

    One thread calls `put`; any may call the rest. `_lock` guards everything.

    Attributes:
        pending: How many deliveries wait here, or have begun and aren't done.
        workers: How many threads there are that call `wait`.
    """

    def __init__(self, limit: int, *, ordered: bool) -> None:
        """Make an empty queue.

        Args:
            limit: How many deliveries may be pending.
            ordered: Whether those of a lane begin one by one; otherwise, all may begin at once.
        """
        self._limit = limit
        self._ordered = ordered
        self._lanes: WeakValueDictionary[object, Lane] = WeakValueDictionary()
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Become empty, in a forked child: what is pending belongs to the parent."""
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._ready: deque[Turn] = deque()
        self._idle = 0  # of the workers, those in `wait`
        self.workers = 0
        self._dismissed = False
        self.pending = 0
        for lane in self._lanes.values():
            lane.busy = False
            lane.waiting.clear()

    def lane(self, subscription: Subscription) -> Lane:
        """Return the lane of a subscription, which it shares with its `on_gap`."""
        parts = subscription.id if isinstance(subscription.id, tuple) else (subscription.id,)
        key = (subscription.channel, parts[:-1] if subscription.delivers_gaps else parts)
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = Lane()
            return lane

    def put(self, batch: Batch) -> None:
        """Take over as many deliveries as there is room for, waiting a moment for room."""
        with self._lock:
            self._dismissed = False
            if self.pending >= self._limit:
                self._room.wait(CHECK)
            for delivery in batch.rest():
                if batch.is_cancelled or self.pending >= self._limit:
                    break
                batch.done(1)
                binding = delivery.binding
                # If there is a successor, it gets the delivery after those that are already here.
                if not (binding.live or binding.successor):
                    continue
                lane: Lane = binding.target.lane
                self.pending += 1
                if self._ordered and lane.busy:
                    lane.waiting.append(delivery)
                else:
                    self._begin(lane, delivery)

    @property
    def ready(self) -> int:
        """How many may begin now."""
        return len(self._ready)

    def take(self) -> Turn | None:
        """Return what may begin; None if nothing does."""
        with self._lock:
            return self._next()

    # --- for workers that wait ---

    def hire(self, limit: int) -> int:
        """Return how many workers are to be started, and count them from now on.

        Args:
            limit: How many there may be.
        """
        with self._lock:
            wanted = max(0, min(len(self._ready) - self._idle, limit - self.workers))
            self.workers += wanted
            return wanted

    def pause(self) -> bool:
        """Wait a moment if a delivery waits for a worker to be started; return whether one does."""
        with self._lock:
            if len(self._ready) > self._idle:
                self._room.wait(CHECK)
            return len(self._ready) > self._idle

    def discount(self, count: int = 1) -> int:
        """Stop counting workers that couldn't be started; return how many are left."""
        with self._lock:
            self.workers -= count
            return self.workers

    def wait(self, timeout: float) -> Turn | None:
        """Return what may begin, waiting up to `timeout` seconds; None if the worker is to end.

        A worker that is to end isn't counted from that moment on, so that `put` doesn't rely on it
        for what comes later.
        """
        with self._lock:
            deadline = monotonic() + timeout
            self._idle += 1
            try:
                while (turn := self._next()) is None and not self._dismissed:
                    if (left := deadline - monotonic()) <= 0:
                        break
                    self._work.wait(left)
            finally:
                self._idle -= 1
            if turn is None:
                self.workers -= 1
            return turn

    def done(self, lane: Lane) -> None:
        """Let what comes next in a lane begin."""
        with self._lock:
            self.pending -= 1
            self._free(lane)
            self._room.notify()

    def dismiss(self) -> None:
        """End all waits in `wait`, until the next `put`."""
        with self._lock:
            self._dismissed = True
            self._work.notify_all()

    def clear(self) -> list[Delivery]:
        """Remove and return what hasn't begun."""
        with self._lock:
            taken: list[Delivery] = []
            for lane, delivery in self._ready:
                lane.busy = False
                taken.append(delivery)
            self._ready.clear()
            for lane in self._lanes.values():
                taken += lane.waiting
                lane.waiting.clear()
            self.pending -= len(taken)
            self._room.notify()
            return taken

    def take_back(self, binding: Binding) -> list[Delivery]:
        """Remove and return a binding's deliveries that haven't begun, in order."""
        with self._lock:
            taken = [one for _, one in self._ready if one.binding is binding]
            freed = [lane for lane, one in self._ready if one.binding is binding]
            self._ready = deque(turn for turn in self._ready if turn[1].binding is not binding)
            for lane in self._lanes.values():
                taken += (one for one in lane.waiting if one.binding is binding)
                lane.waiting = deque(one for one in lane.waiting if one.binding is not binding)
            self.pending -= len(taken)
            for lane in freed:
                self._free(lane)
            self._room.notify()
            return taken

    def _next(self) -> Turn | None:
        """Return the first that is still to be delivered; pass on, or forget, those before it."""
        while self._ready:
            lane, delivery = self._ready.popleft()
            if delivery.binding.live:
                return lane, delivery
            # With the lock held, so that `take_back` finds all that came before.
            delivery.pass_on()
            self.pending -= 1
            self._free(lane)
            self._room.notify()
        return None

    def _free(self, lane: Lane) -> None:
        """Let what comes next in a lane begin."""
        if lane.waiting:
            self._begin(lane, lane.waiting.popleft())
        else:
            lane.busy = False

    def _begin(self, lane: Lane, delivery: Delivery) -> None:
        lane.busy = True
        self._ready.append((lane, delivery))
        self._work.notify()


class LaneTarget(NamedTuple):
    """The target of a subscription: its callback and its lane."""

    fn: Any
    lane: Lane


class LaneDispatcher(Dispatcher):
    """The base of dispatchers that run callbacks outside the deliverer's thread."""

    settles_itself: ClassVar[bool] = True

    def __init__(self, max_pending: int, *, ordered: bool) -> None:
        self._lanes = Lanes(max_pending, ordered=ordered)
        self._notifier: ref[object] | None = None

    def attach(self, notifier: object) -> None:
        """Remember which notifier uses this dispatcher.

        Raises:
            ConfigurationError: Another one does.
        """
        self._notifier = claim(self, self._notifier, notifier)

    @property
    def pending(self) -> int:
        """How many deliveries run, or wait for their turn."""
        return self._lanes.pending

    def abandon(self) -> None:
        """Forget what hasn't begun."""
        self._lanes.clear()

    def take_back(self, binding: Binding) -> list[Delivery]:
        """Give up and return a binding's deliveries that haven't begun."""
        return self._lanes.take_back(binding)
