"""Gaps: report them, and hold back deliveries until the users know of them."""

from collections.abc import Callable, Iterable, Mapping

from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.reports import GapReport
from pgnotifier._listener.gap_hold import GapHold
from pgnotifier._registry.registry import Registry
from pgnotifier.dispatch import Delivery, Dispatcher
from pgnotifier.notification import Gap


class Gaps:
    """Reports the gaps of one listener; owned by the reader, except for `hold_new`."""

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
        self._latest = GapHold()
        self._latest.release()

    @property
    def is_locked_here(self) -> bool:
        """Whether the calling code has interrupted code that holds the lock of the latest hold."""
        return self._latest.is_locked_here

    def hold(self) -> GapHold:
        """Hold back what is read from now on, until it is known what was missed."""
        if self._report.is_full and self._latest.awaits_users:
            return self._latest  # everything waits behind that one anyway
        hold = self._latest = GapHold()  # set first, for deliverers that are made meanwhile
        for deliverer in self._deliverers().values():
            hold.hold(deliverer)
        return hold

    def hold_new(self, deliverer: Deliverer) -> None:
        """Hold back what is read for a new deliverer, if that is done for the others."""
        self._latest.hold(deliverer)

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
