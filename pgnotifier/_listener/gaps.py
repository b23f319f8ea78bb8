"""Gaps: report them, and hold back what was read later until `on_gap` has returned."""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from weakref import WeakKeyDictionary

from pgnotifier._delivery.buffer import GapMarker
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.reports import GapReport
from pgnotifier._registry.registry import Registry
from pgnotifier.dispatch import Delivery, Dispatcher
from pgnotifier.notification import Gap


class GapHold:
    """A gap marker in the buffer of each deliverer; deliverers wait at it until it is released.

    Any thread may call it: deliverers are made, and `on_gap` returns, at any moment.

    Attributes:
        lock: Guards the rest.
    """

    def __init__(self) -> None:
        """Begin without a marker."""
        self.lock = threading.RLock()
        self._markers: dict[Deliverer, GapMarker] = {}
        self._is_released = False
        self._gaps: list[Gap] = []
        self._deliveries: list[Delivery] = []

    @property
    def awaits_users(self) -> bool:
        """Whether there is a gap that `on_gap` hasn't returned for yet."""
        return bool(self._gaps)

    def hold(self, deliverer: Deliverer) -> None:
        """Hold back what is read for a deliverer from now on, unless this hold was released."""
        with self.lock:
            if not self._is_released and deliverer not in self._markers:
                self._markers = {**self._markers, **_hold_all([deliverer])}

    def add(self, gaps: Iterable[Gap], deliver: Callable[[Iterable[Gap]], list[Delivery]]) -> None:
        """Have subscriptions receive gaps before what is held back.

        Args:
            gaps: The gaps. They become one with those that still wait for `on_gap`, if there are
                any.
            deliver: Returns the deliveries of some gaps to the subscriptions with an `on_gap`.
        """
        with self.lock:
            self._gaps = [reduce(Gap.merge, [*self._gaps, *gaps])] if self._gaps else [*gaps]
            self._deliveries = deliver(self._gaps)

    def release(self) -> None:
        """Have the gaps delivered, and then what is held back."""
        with self.lock:
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

    A subscription that was moved to another dispatcher gets them from that one if it is known,
    because what is read later waits there.
    """
    grouped: dict[Dispatcher, list[Delivery]] = {}
    for one in deliveries:
        latest = one.binding.latest()
        moved = Delivery(latest, one.notification) if latest.dispatcher in known else one
        grouped.setdefault(moved.binding.dispatcher, []).append(moved)
    return grouped


class Gaps:
    """Reports the gaps of one listener; owned by the reader, except for `hold_new`.

    Attributes:
        latest: The latest hold.
    """

    def __init__(
        self,
        report: GapReport,
        registry: Callable[[], Registry],
        deliverers: Callable[[], Mapping[Dispatcher, Deliverer]],
    ) -> None:
        """Begin without a gap.

        Args:
            report: Logs a gap, and calls `on_gap`.
            registry: Returns the current registry.
            deliverers: Returns the current deliverers.
        """
        self._report = report
        self._registry = registry
        self._deliverers = deliverers
        # The latest of each deliverer.
        self._dropped: WeakKeyDictionary[Deliverer, tuple[GapMarker, Gap]] = WeakKeyDictionary()
        self.latest = GapHold()
        self.latest.release()

    def hold(self) -> GapHold:
        """Hold back what is read from now on, until it is known what was missed."""
        if self._report.is_full and self.latest.awaits_users:
            return self.latest  # everything waits behind that one anyway
        hold = self.latest = GapHold()  # set first, for deliverers that are made meanwhile
        for deliverer in self._deliverers().values():
            hold.hold(deliverer)
        return hold

    def hold_new(self, deliverer: Deliverer) -> None:
        """Hold back what is read for a new deliverer, if that is done for the others."""
        self.latest.hold(deliverer)

    def report(self, hold: GapHold, *found: Gap | None) -> None:
        """Report gaps, and release a hold once `on_gap` has returned for the last of them."""
        gaps = [gap for gap in found if gap is not None]
        if gaps:
            hold.add(gaps, self.deliveries)
            for gap in gaps[:-1]:
                self._report(gap)
            self._report(gaps[-1], hold.release)
        elif not hold.awaits_users:
            hold.release()

    def deliveries(
        self, gaps: Iterable[Gap], dispatcher: Dispatcher | None = None
    ) -> list[Delivery]:
        """Return the deliveries of gaps to subscriptions with an `on_gap`.

        Args:
            gaps: The gaps.
            dispatcher: Include only what this one delivers. Default: what any delivers.
        """
        registry = self._registry()
        return [
            Delivery(binding.on_gap, gap.to_notification(channel))
            for gap in gaps
            for channel in sorted(gap.channels)
            for by, bindings in registry.lanes(channel)
            if dispatcher is None or by is dispatcher
            for binding in bindings
            if binding.on_gap is not None
        ]

    def report_dropped(self, deliverers: Iterable[Deliverer], *, at_once: bool = False) -> None:
        """Report what overflow policies have dropped from full buffers since the last call.

        While `on_gap` is still busy with an earlier gap, nothing is reported, and the next gap
        grows instead.

        Args:
            deliverers: The current deliverers.
            at_once: Whether this is the last call.
        """
        if self._report.is_busy and not at_once:
            return
        for deliverer in deliverers:
            if missed := deliverer.take_missed(at_once=at_once):
                self._report(missed)
                self._deliver_dropped(deliverer, missed)

    def _deliver_dropped(self, deliverer: Deliverer, missed: Gap) -> None:
        """Have the subscriptions of a dispatcher receive a gap, behind what is buffered by now.

        Nothing is held back: other notifications are on their way already. If the marker of the
        gap before is still in the buffer, both gaps become one.
        """
        dispatcher = deliverer.dispatcher
        if deliverer in self._dropped:
            marker, before = self._dropped[deliverer]
            both = before.merge(missed)
            if deliverer.release(marker, self.deliveries([both], dispatcher)):
                self._dropped[deliverer] = marker, both
                return
        marker = GapMarker(self.deliveries([missed], dispatcher))
        deliverer.take_over(marker)
        self._dropped[deliverer] = marker, missed
