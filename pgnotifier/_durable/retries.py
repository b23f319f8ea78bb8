"""The retries of one durable subscription: failed entries are tried again, beside the new ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

from pgnotifier._delivery.intake import EntryItem
from pgnotifier._durable.flight import Flight, launch
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.reports import report_dead
from pgnotifier.dispatch import Binding
from pgnotifier.durability import Durability

AT_ONCE = 100
"""How many failed entries are retried at a time."""
CHECK_PAUSE = 5.0
"""Seconds between two checks for failed entries that other sessions have recorded."""
LOCKED_PAUSE = 0.1
"""Seconds before another look for what is due while another session has locked it."""
LOST_PAUSE = 1.0
"""Seconds before retries that were dropped on their way are tried again; that may happen again."""


class Retries:
    """Hands over what has failed and is due, a few at a time. The source's thread owns it."""

    def __init__(
        self,
        hand_over: Callable[[Sequence[EntryItem]], object],
        on_settled: Callable[[], object],
    ) -> None:
        """Begin with nothing under way.

        Args:
            hand_over: Gives entries to the deliverer.
            on_settled: Called on any thread, once they are settled or lost.
        """
        self._hand_over = hand_over
        self._on_settled = on_settled
        self._flight: Flight | None = None
        self._due_at = -math.inf

    @property
    def is_busy(self) -> bool:
        """Whether some are under way."""
        return self._flight is not None

    @property
    def due_at(self) -> float:
        """When to look for some next, by `monotonic()`; never while some are under way."""
        return math.inf if self.is_busy else self._due_at

    def look_in(self, seconds: float) -> None:
        """Look for some in that time at the latest."""
        self._due_at = min(self._due_at, monotonic() + seconds)

    def note_none(self) -> None:
        """Note that nothing has failed."""
        self._due_at = monotonic() + CHECK_PAUSE

    def void(self) -> None:
        """Note that what is under way was read from a log that was replaced by another one."""
        if self._flight is not None:
            self._flight = replace(self._flight, is_void=True)

    def forget(self) -> None:
        """Give up what is under way."""
        self._flight = None

    def read(self, session: LogSession, sub: int, binding: Binding) -> bool:
        """Hand over what has failed and is due; return whether there was some."""
        left = session.seconds_to_retry(sub)
        self._due_at = monotonic() + min(CHECK_PAUSE, max(0.0, left or CHECK_PAUSE))
        if left is None or left > 0:
            return False
        # A standby server that has taken over may have reused a number. Entries are settled by
        # their numbers, so of those with the same number, only one is retried at a time.
        found = session.read_due(sub, AT_ONCE)
        rows = [*{row.id: row for row in reversed(found)}.values()][::-1]
        if not rows:  # another session has locked them
            self._due_at = monotonic() + LOCKED_PAUSE
            return False
        self._flight = launch(rows, binding, self._hand_over, self._on_settled, session.encoding)
        return True

    def settle(self, session: LogSession, binding: Binding, *, at_once: bool = False) -> None:
        """Delete what has succeeded now; put off, or set aside, what has failed again.

        Args:
            session: The session.
            binding: The subscription.
            at_once: Whether to do so even if some are still under way.
        """
        flight = self._flight
        if flight is None or not (flight.has_ended or at_once):
            return
        if flight.is_void:
            self._flight = None
            return
        subscription = binding.subscription
        settled = [row for row in flight.rows if row.id not in flight.ledger.left]
        failed = list(flight.failed(settled, subscription.durability or Durability()))
        done = [row for row in settled if row.id not in flight.ledger.failures]
        session.settle_retried(done, failed)
        self._flight = None
        self._due_at = monotonic() + (LOST_PAUSE if len(settled) < len(flight.rows) else 0.0)
        for one in failed:
            report_dead(subscription, *one)
