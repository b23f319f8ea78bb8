"""A hold: what was read after a gap isn't delivered until the users know of that gap."""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce

from pgnotifier._delivery.buffer import GapMarker
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._runtime.sync import is_held_here
from pgnotifier.dispatch import Binding, Delivery, Dispatcher
from pgnotifier.notification import Gap


class GapHold:
    """A gap marker in the buffer of each deliverer; deliverers wait at it until it is released.

    Any thread may call it: deliverers are made, and `on_gap` returns, at any moment.
    """

    def __init__(self) -> None:
        """Begin without a marker."""
        self._lock = threading.RLock()
        self._markers: dict[Deliverer, GapMarker] = {}
        self._is_released = False
        self._gaps: list[Gap] = []
        self._deliveries: list[Delivery] = []

    @property
    def is_locked_here(self) -> bool:
        """Whether the calling code has interrupted code that holds the lock."""
        return is_held_here(self._lock)

    @property
    def awaits_users(self) -> bool:
        """Whether there is a gap that `on_gap` hasn't returned for yet."""
        return bool(self._gaps)

    def hold(self, deliverer: Deliverer) -> None:
        """Hold back what is read for a deliverer from now on, unless this hold was released."""
        with self._lock:
            if not self._is_released and deliverer not in self._markers:
                self._markers = {**self._markers, **_hold_all([deliverer])}

    def add(self, gaps: Iterable[Gap], deliver: Callable[[Iterable[Gap]], list[Delivery]]) -> None:
        """Have subscriptions receive gaps before what is held back.

        Args:
            gaps: The gaps. They become one with those that still wait for `on_gap`, if there are
                any.
            deliver: Returns the deliveries of some gaps to the subscriptions with an `on_gap`.
        """
        with self._lock:
            self._gaps = [reduce(Gap.merge, [*self._gaps, *gaps])] if self._gaps else [*gaps]
            self._deliveries = deliver(self._gaps)

    def release(self) -> None:
        """Have the gaps delivered, and then what is held back."""
        with self._lock:
            deliveries, self._deliveries, self._gaps = self._deliveries, [], []
            if self._is_released:  # gaps were added since: their deliveries need new markers
                self._markers = _hold_all(self._markers)
            self._is_released = True
            markers = self._markers
        dispatchers = {deliverer.dispatcher for deliverer in markers}
        grouped = _by_dispatcher(deliveries, dispatchers)
        for deliverer, marker in markers.items():
            deliverer.release(marker, grouped.get(deliverer.dispatcher, ()))


def _hold_all(deliverers: Iterable[Deliverer]) -> dict[Deliverer, GapMarker]:
    markers = {deliverer: GapMarker() for deliverer in deliverers}
    for deliverer, marker in markers.items():
        deliverer.hold(marker)
    return markers


def _by_dispatcher(
    deliveries: Iterable[Delivery], known: Collection[Dispatcher]
) -> Mapping[Dispatcher, list[Delivery]]:
    """Return deliveries by the dispatcher that makes them.

    A subscription that was moved to another dispatcher gets them from that one if it is known:
    what is read later waits there.
    """
    grouped: dict[Dispatcher, list[Delivery]] = {}
    for one in deliveries:
        latest = _find_latest(one.binding)
        moved = Delivery(latest, one.notification) if latest.dispatcher in known else one
        grouped.setdefault(moved.binding.dispatcher, []).append(moved)
    return grouped


def _find_latest(binding: Binding) -> Binding:
    while binding.heir is not None:
        binding = binding.heir
    return binding
