"""Reports of what overflow policies have dropped, as gaps."""

from collections.abc import Iterable

from pgnotifier._delivery.buffer import GapMarker
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.reports import GapReport
from pgnotifier._listener.gaps import Gaps
from pgnotifier.notification import Gap


class DroppedReports:
    """Reports what was dropped from full buffers; owned by the reader."""

    def __init__(self, report: GapReport, gaps: Gaps) -> None:
        """Take how to report.

        Args:
            report: Logs a gap, and calls `on_gap`.
            gaps: Makes the deliveries of a gap.
        """
        self._report = report
        self._gaps = gaps
        self._latest: dict[Deliverer, tuple[GapMarker, Gap]] = {}

    def report(self, deliverers: Iterable[Deliverer], *, at_once: bool = False) -> None:
        """Report what was dropped since the last call.

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
                self._deliver(deliverer, missed)

    def forget(self, deliverers: Iterable[Deliverer]) -> None:
        """Forget deliverers that have ended."""
        for deliverer in deliverers:
            self._latest.pop(deliverer, None)

    def _deliver(self, deliverer: Deliverer, missed: Gap) -> None:
        """Have the subscriptions of a dispatcher receive a gap, behind what is buffered by now.

        Nothing is held back: other notifications are on their way already. If the marker of the
        gap before is still in the buffer, both gaps become one.
        """
        dispatcher = deliverer.dispatcher
        if deliverer in self._latest:
            marker, before = self._latest[deliverer]
            both = before.merge(missed)
            if deliverer.release(marker, self._gaps.deliveries([both], dispatcher)):
                self._latest[deliverer] = marker, both
                return
        marker = GapMarker()
        deliverer.hold(marker)
        deliverer.release(marker, self._gaps.deliveries([missed], dispatcher))
        self._latest[deliverer] = marker, missed
