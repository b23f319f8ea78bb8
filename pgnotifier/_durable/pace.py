"""The pace at which the position of one durable subscription is saved."""

import math
import random
from time import monotonic

SAVE_PAUSE = 1.0
"""Seconds after which the part of a batch that is settled is saved."""
IDLE_SAVE_PAUSE = 10.0
"""Seconds between two saved positions while there is nothing to deliver, at most."""
QUIET_SAVE_PAUSE = 300.0
"""The same while nothing at all is published: the log may be full."""


class Pace:
    """When the position is to be saved, by `monotonic()`. The source's thread owns it.

    Hundreds of subscriptions that have nothing to deliver aren't saved all at once.

    Attributes:
        whole_at: When to save a batch that has been delivered as a whole, at the earliest.
    """

    def __init__(self) -> None:
        """Begin with a position that may be old."""
        self.whole_at = -math.inf
        self._saved_at = self._busy_at = -math.inf
        self._share = 1.0
        self._is_quiet = False

    @property
    def part_at(self) -> float:
        """When to save the part of a batch that is settled."""
        return self._saved_at + SAVE_PAUSE

    @property
    def idle_at(self) -> float:
        """When to save that there is nothing to deliver."""
        pause = QUIET_SAVE_PAUSE if self._is_quiet else IDLE_SAVE_PAUSE
        return max(self._saved_at + self._share * pause, self._busy_at)

    def begin(self, seconds: float) -> None:
        """Note that a batch is handed over, and isn't to be saved before that time is over."""
        self.note_saved()
        self.whole_at = self._saved_at + seconds

    def note_saved(self) -> None:
        """Note that the position is being saved."""
        self._saved_at = monotonic()
        self._share = random.uniform(0.7, 1.0)  # noqa: S311 - no secret depends on it

    def note_idle(self, *, is_quiet: bool) -> None:
        """Note that there is nothing to deliver, and whether nothing at all was published."""
        if self._is_quiet and not is_quiet:
            self._busy_at = monotonic() + random.uniform(0.0, IDLE_SAVE_PAUSE)  # noqa: S311
        self._is_quiet = is_quiet
