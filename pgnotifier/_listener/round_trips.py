"""Round trips: what they have proven about the connection, and when the next one is due."""

from time import monotonic

from pgnotifier._runtime.clock import Moment
from pgnotifier.status import Latency

PROOF = 1.0
"""Seconds between round trips while notifications arrive. A gap reaches back this far at most."""


class RoundTrips:
    """The record of round trips to the server, owned by the reader.

    Attributes:
        proven_at: Everything that was committed before this moment has been read, as far as its
            channel was listened to.
        latency: How long round trips take; None before the first.
        due_at: When the next one is due, by `time.monotonic()`.
        is_unproven: Whether notifications have arrived since the last one.
    """

    def __init__(self, heartbeat: float) -> None:
        """Begin with a round trip that is due at once.

        Args:
            heartbeat: Seconds between round trips while nothing arrives.
        """
        self.proven_at = Moment.now()
        self.latency: Latency | None = None
        self.due_at = monotonic()
        self.is_unproven = False
        self._heartbeat = heartbeat

    @property
    def due_in(self) -> float:
        """Seconds until the next one is due, 0 if it is overdue."""
        return max(0.0, self.due_at - monotonic())

    def note_arrival(self) -> None:
        """Have the next round trip made soon, because notifications have arrived."""
        if not self.is_unproven:
            self.is_unproven = True
            self.due_at = min(self.due_at, monotonic() + PROOF)

    def note_success(self, begun: Moment) -> None:
        """Note that a round trip has succeeded.

        Args:
            begun: When its query was sent.
        """
        now = monotonic()
        self.proven_at = begun
        self.latency = (self.latency or Latency(0, 0, 0, 0)).plus(now - begun.steady)
        self.is_unproven = False
        self.due_at = now + self._heartbeat
