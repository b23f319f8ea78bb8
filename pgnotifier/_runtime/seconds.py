"""Seconds: which numbers of seconds an option may be."""

from dataclasses import dataclass
from typing import Any, ClassVar

DAY = 86_400
CENTURY = 36_525 * DAY
"""Beyond it, dates overflow."""
_SHOWN: dict[float, str] = {DAY: f"{DAY} (a day)", CENTURY: f"{CENTURY} (a century)"}


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A range of durations.

    Attributes:
        kind: What a value has to be, as the end of "must be".
        most: The longest duration.
        allows_zero: Whether 0 is one.
    """

    kind: ClassVar[str] = "a number of seconds"
    most: float = float("inf")
    allows_zero: bool = False

    @property
    def limits(self) -> str:
        """What a number has to be besides, as the end of "must be"."""
        least = "at least 0" if self.allows_zero else "above 0"
        return f"{least} and at most {_SHOWN[self.most]}" if self.most in _SHOWN else least

    def includes(self, value: float) -> bool:
        """Return whether a number is in the range. NaN is in none."""
        return value <= self.most and (value >= 0 if self.allows_zero else value > 0)

    def find_problem(self, value: Any) -> str | None:
        """Return what a value must be, as the end of "must be"; None if it is that."""
        if not is_number(value):
            return self.kind
        return None if self.includes(value) else self.limits
