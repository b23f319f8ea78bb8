"""Points in time by two clocks, because either may be wrong.

The wall clock may be set while a connection is lost; the steady one stops while the machine sleeps.
"""

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import NamedTuple


class Moment(NamedTuple):
    """A point in time.

    Attributes:
        steady: By `time.monotonic()`.
        wall: Aware, in UTC.
    """

    steady: float
    wall: datetime

    @classmethod
    def now(cls) -> "Moment":
        """Return the present."""
        return cls(monotonic(), datetime.now(UTC))

    def earlier(self, seconds: float) -> "Moment":
        """Return the moment that is this many seconds earlier."""
        return Moment(self.steady - seconds, self.wall - timedelta(seconds=seconds))


def stretch(since: Moment, until: Moment) -> tuple[datetime, datetime]:
    """Return the bounds of a stretch of time, by the wall clock.

    If that was set meanwhile, the bounds are wide enough for both the old and the new setting: it
    is unknown which of the two dated something in between.
    """
    passed = timedelta(seconds=until.steady - since.steady)
    return min(since.wall, until.wall - passed), max(until.wall, since.wall + passed)
