"""GapHold: while users don't know of a gap yet, what came after it is held back."""

import threading
from collections.abc import Callable, Iterable
from functools import reduce
from typing import TYPE_CHECKING

from pgnotifier._delivery.buffer import Barrier
from pgnotifier._runtime.sync import is_held_here
from pgnotifier.dispatch import Delivery, Dispatcher
from pgnotifier.notification import Gap

if TYPE_CHECKING:
    from pgnotifier._delivery.deliverer import Deliverer


class GapHold:
    """The barriers behind what came before a gap, one for each deliverer.

    Any thread may call it: deliverers are made, and `on_gap` returns, at any moment.
    """

    def __init__(self) -> None:
        """Begin without a barrier."""
        self._lock = threading.RLock()
        self._barriers: dict[Deliverer, Barrier] = {}
        self._is_lifted = False
        self._gaps: list[Gap] = []
        self._told: list[Delivery] = []

    def bar(self, deliverer: "Deliverer") -> None:
        """Hold back what comes for a deliverer from now on, unless that is over."""
        with self._lock:
            if not self._is_lifted and deliverer not in self._barriers:
                barrier = self._barriers[deliverer] = Barrier()
                deliverer.bar(barrier)

    @property
    def is_locked_here(self) -> bool:
        """Whether the calling code has interrupted what holds its lock."""
        return is_held_here(self._lock)

    @property
    def awaits_users(self) -> bool:
        """Whether there is a gap that users don't know of yet."""
        return bool(self._gaps)

    def tell(
        self, gaps: Iterable[Gap], deliveries: "Callable[[Iterable[Gap]], list[Delivery]]"
    ) -> None:
        """Have subscriptions told of gaps first; of one, if there are others to be told of.

        Args:
            gaps: The gaps.
            deliveries: Returns what subscriptions are told of some gaps.
        """
        with self._lock:
            self._gaps = [reduce(Gap.merge, [*self._gaps, *gaps])] if self._gaps else [*gaps]
            self._told = deliveries(self._gaps)

    def lift(self) -> None:
        """Have what is held back delivered, once subscriptions are told of the gaps."""
        with self._lock:
            told, self._told, self._gaps = self._told, [], []
            is_late, self._is_lifted = self._is_lifted, True
            barriers = self._barriers
            if is_late:  # for what is told now, in the place of those that are gone
                barriers = self._barriers = {one: Barrier() for one in barriers}
                for deliverer, barrier in barriers.items():
                    deliverer.bar(barrier)
        by_dispatcher: dict[Dispatcher, list[Delivery]] = {}
        known = {deliverer.dispatcher for deliverer in barriers}
        for delivery in told:
            latest = delivery.binding
            while latest.heir is not None:
                latest = latest.heir
            if latest.dispatcher in known:  # and what comes later waits there
                delivery = Delivery(latest, delivery.notification)  # noqa: PLW2901
            by_dispatcher.setdefault(delivery.binding.dispatcher, []).append(delivery)
        for deliverer, barrier in barriers.items():
            deliverer.lift(barrier, by_dispatcher.get(deliverer.dispatcher, ()))
