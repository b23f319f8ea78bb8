"""Backoff: growing pauses between tries."""

import random


class Backoff:
    """Pauses between tries: 0.1 s, doubling to 30 s, each jittered by half, for one incident."""

    FIRST = 0.1
    LAST = 30.0

    def __init__(self, last: float | None = None) -> None:
        """Begin an incident.

        Args:
            last: The longest pause, in seconds, in place of `LAST`.
        """
        self._next = self.FIRST
        self._last = self.LAST if last is None else last

    def pause(self) -> float:
        """Return the seconds to wait before the next try."""
        pause, self._next = self._next, min(self._next * 2, self._last)
        # Jitter keeps a thousand clients of one failed server from coming back all at once.
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it
