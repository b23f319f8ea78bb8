"""The turn of one durable subscription: when it is read, and when it is left to others."""

import math
from time import monotonic

from pgnotifier._runtime.backoff import Backoff

LOCK_PAUSE = 0.2
"""Seconds between two attempts to get a subscription that another replica advances."""
LOOK_PAUSE = 1.0
"""Seconds between two looks whether somebody has moved the position of one that is held up."""
TURN_PAUSE = 0.03
"""Seconds for which it is left to other replicas, or waits for its turn beside others."""


class Turn:
    """Until when a subscription isn't read. The source's thread owns it.

    Attributes:
        is_elsewhere: Whether another replica advances it.
    """

    def __init__(self) -> None:
        """Begin without a pause."""
        self.is_elsewhere = False
        self._lock_at = self._turn_at = self._paused_until = -math.inf
        self._look_at = math.inf
        self._backoff = Backoff()

    @property
    def has_come(self) -> bool:
        """Whether it may be read now, if no other replica has it."""
        return monotonic() >= max(self._paused_until, self._turn_at)

    @property
    def is_held_up(self) -> bool:
        """Whether it pauses because an entry has failed that holds it up."""
        return self._look_at < math.inf and monotonic() < self._paused_until

    @property
    def looks_for_a_move(self) -> bool:
        """Whether to look now if somebody has moved its position, which ends that pause."""
        return self.is_held_up and monotonic() >= self._look_at

    @property
    def may_lock(self) -> bool:
        """Whether to look now if another replica still has it."""
        return monotonic() >= self._lock_at

    @property
    def comes_at(self) -> float:
        """When its turn comes, by `monotonic()`, unless it has come."""
        now = monotonic()
        later = (at for at in (self._paused_until, self._turn_at) if at > now)
        look_at = max(self._look_at, now) if self.is_held_up else math.inf
        return min(*later, look_at, math.inf)

    def begins_at(self, *, is_held: bool) -> float:
        """Return from when on it may be read, by `monotonic()`.

        Args:
            is_held: Whether this session holds it, so that no other replica can have it.
        """
        begins_at = max(self._paused_until, self._turn_at)
        return begins_at if is_held else max(begins_at, self._lock_at)

    def note(self, *, is_elsewhere: bool) -> None:
        """Note whether another replica advances it."""
        self.is_elsewhere = is_elsewhere
        if is_elsewhere:
            self._lock_at = monotonic() + LOCK_PAUSE

    def look_again(self) -> None:
        """Have the next visit check whether another replica still has it."""
        self._lock_at = -math.inf

    def leave(self) -> None:
        """Leave it to others for a moment."""
        self._turn_at = monotonic() + TURN_PAUSE

    def pause(self, seconds: float | None = None) -> None:
        """Pause for a number of seconds; by default for longer each time."""
        self._paused_until = monotonic() + (self._backoff.pause() if seconds is None else seconds)
        self._look_at = math.inf

    def hold_up(self, seconds: float) -> None:
        """Pause until the entry that holds it up is tried again, or its position is moved."""
        self.pause(seconds)
        self.note_look()

    def note_look(self) -> None:
        """Note that somebody looks now if its position was moved."""
        self._look_at = monotonic() + LOOK_PAUSE

    def go_on(self) -> None:
        """End the pause; the next one is short again."""
        self._backoff, self._paused_until, self._look_at = Backoff(), -math.inf, math.inf
