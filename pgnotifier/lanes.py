"""Lanes: what waits for a free worker, so that each subscription's deliveries stay in order."""

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pgnotifier.dispatch import Delivery
from pgnotifier.registry import Subscription

if TYPE_CHECKING:
    from collections.abc import Hashable

CHECK = 0.1
"""Seconds after which a full dispatcher looks whether `stop()` has taken its batch away."""


class Lane:
    """The deliveries of one subscription that wait for the one before them."""

    __slots__ = ("__weakref__", "busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.waiting: deque[Delivery] = deque()


Turn = tuple[Lane, Delivery]
"""A delivery that may begin, and the lane that is to be told when it is done."""


class Lanes:
    """Deliveries on their way from a dispatcher to its workers, bounded in number.

    One thread calls `put`; any may call the rest. `_lock` guards everything.
    """

    def __init__(self, limit: int, *, ordered: bool) -> None:
        """Make one that is empty.

        Args:
            limit: How many deliveries may be pending.
            ordered: Whether those of a lane follow each other; else all may begin at once.
        """
        self.pending = 0
        self._limit = limit
        self._ordered = ordered
        self._lanes: WeakValueDictionary[Hashable, Lane] = WeakValueDictionary()
        self.forget_in_child()

    def forget_in_child(self) -> None:
        """Be empty, in a forked child: what is pending is the parent's."""
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._ready: deque[Turn] = deque()
        self._idle = 0
        self._dismissed = False
        self.pending = 0
        for lane in self._lanes.values():
            lane.busy = False
            lane.waiting.clear()

    def lane(self, subscription: Subscription) -> Lane:
        """Return the lane of a subscription, which it shares with its `on_gap`."""
        parts = subscription.id if isinstance(subscription.id, tuple) else (subscription.id,)
        key = (subscription.channel, parts[:-1] if subscription.tells_gaps else parts)
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = Lane()
            return lane

    def put(self, batch: deque[Delivery]) -> int:
        """Take over as many of a batch as there is room for, waiting a moment for some.

        Returns:
            How many more may begin now than there are workers waiting in `take`.
        """
        with self._lock:
            self._dismissed = False
            if self.pending >= self._limit:
                self._room.wait(CHECK)
            while self.pending < self._limit:
                try:
                    delivery = batch.popleft()
                except IndexError:  # `stop()` may empty it at any moment
                    break
                binding = delivery.binding
                if not binding.live:
                    continue
                lane: Lane = binding.target.lane
                self.pending += 1
                if self._ordered and lane.busy:
                    lane.waiting.append(delivery)
                else:
                    self._begin(lane, delivery)
            return max(0, len(self._ready) - self._idle)

    @property
    def ready(self) -> int:
        """How many may begin now."""
        return len(self._ready)

    def take(self, timeout: float = 0) -> Turn | None:
        """Return what may begin, waiting so many seconds for it; None if nothing does."""
        with self._lock:
            deadline = monotonic() + timeout
            self._idle += 1
            try:
                while not (self._ready or self._dismissed) and (left := deadline - monotonic()) > 0:
                    self._work.wait(left)
            finally:
                self._idle -= 1
            return self._ready.popleft() if self._ready else None

    def done(self, lane: Lane) -> None:
        """Let what comes next in a lane begin."""
        with self._lock:
            self.pending -= 1
            if lane.waiting:
                self._begin(lane, lane.waiting.popleft())
            else:
                lane.busy = False
            self._room.notify()

    def dismiss(self) -> None:
        """Have nobody wait in `take` any longer, until the next `put`."""
        with self._lock:
            self._dismissed = True
            self._work.notify_all()

    def clear(self) -> list[Delivery]:
        """Take away and return what hasn't begun."""
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

    def _begin(self, lane: Lane, delivery: Delivery) -> None:
        lane.busy = True
        self._ready.append((lane, delivery))
        self._work.notify()
