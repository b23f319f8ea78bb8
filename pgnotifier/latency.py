"""Latency: how long the server takes to answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """How long round trips to the server have taken since the start, in seconds.

    Attributes:
        last: The latest.
        mean: Of all.
        highest: The slowest.
        count: How many there were.
    """

    last: float
    mean: float
    highest: float
    count: int

    def plus(self, seconds: float) -> "Latency":
        """Return it with one more round trip."""
        count = self.count + 1
        mean = self.mean + (seconds - self.mean) / count
        return Latency(seconds, mean, max(self.highest, seconds), count)
