"""The companion: a second, idle session of a leader, which shows that its machine still runs.

PostgreSQL notices within 20 seconds that the client of an idle session has vanished. But TCP sends
no keepalives while data is on its way, and a session that may pause has no other timeout: there it
takes a quarter of an hour. https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html
"""

from collections.abc import Callable
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.parameters import Parameters

LOOK = 1.0
"""Seconds between two checks that the companion is still connected."""


class Companion:
    """The companion of one listener, owned by its reader."""

    def __init__(self, parameters: Parameters, wake: Callable[[], None], query: bytes) -> None:
        """Begin without a companion.

        Args:
            parameters: Where to connect.
            wake: Called once it is connected.
            query: Takes its lock.
        """
        self._parameters = parameters
        self._wake = wake
        self._query = query
        self._look_at = 0.0
        self._connecting: Connecting | None = None

    def tend(self) -> None:
        """Connect one if there is none. Call this again and again."""
        if monotonic() < self._look_at:
            return
        self._look_at = monotonic() + LOOK
        known = self._connecting
        if known is None or (known.done and not known.is_quiet):
            self.close()
            self._connecting = Connecting(self._parameters, self._wake, self._query)

    def close(self) -> None:
        """End the companion, if there is one."""
        known, self._connecting = self._connecting, None
        if known is not None:
            known.abandon()
