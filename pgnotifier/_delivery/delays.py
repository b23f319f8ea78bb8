"""How long batches take from being received to being dispatched."""

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic

from pgnotifier._delivery.buffer import GapMarker, Item
from pgnotifier.status import Delay

WINDOW = 60.0
"""Seconds that a summary covers."""
MOST = 1_000
"""How many batches it covers at most."""


class Delays:
    """The delays of one deliverer's latest batches. Its thread adds them, any thread reads them."""

    def __init__(self) -> None:
        """Begin without a batch."""
        self._taken: deque[tuple[float, float]] = deque(maxlen=MOST)  # when, and how long

    def note(self, items: Sequence[Item | GapMarker]) -> None:
        """Note that these items were just dispatched, in one batch.

        The first is the oldest. Entries of the log aren't counted: they may have waited for days.
        """
        if items and type(first := items[0]) is Item:
            delay = (datetime.now(UTC) - first.received_at).total_seconds()
            self._taken.append((monotonic(), delay))

    def summarize(self) -> Delay | None:
        """Return what the delays of the last minute were; None without any."""
        since = monotonic() - WINDOW
        found = sorted(max(0.0, delay) for at, delay in self._taken.copy() if at >= since)
        if not found:
            return None
        last = len(found) - 1
        median, p95, p99 = (found[round(share * last)] for share in (0.5, 0.95, 0.99))
        return Delay(median, p95, p99, found[-1], len(found))
