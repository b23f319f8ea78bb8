"""Standby: of several listeners that share a name, one leads and the others wait.

The leader holds an advisory lock in the very session that listens, so that losing the
connection is losing the lock. Standbys ask for it once a second and listen to nothing: every
session that listens slows all senders down.
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

import hashlib
from collections import deque
from collections.abc import Sequence

from pgnotifier.moment import Moment

POLL = 1.0
"""Seconds between two tries to take the lead."""
UNKNOWN_AGE = 45.0
"""How far back a gap reaches, in seconds, if nothing is known of the leader: what it takes to
notice a dead connection."""

_QUERY = b"""
SELECT pg_try_advisory_lock(%d), (
  SELECT extract(epoch FROM clock_timestamp() - min(query_start))
  FROM pg_locks JOIN pg_stat_activity USING (pid)
  WHERE locktype = 'advisory' AND classid = %d AND objid = %d AND objsubid = 1
  AND granted AND datname = current_database())"""


class Standby:
    """One listener's view of who leads; owned by its reader.

    Attributes:
        name: What the listeners share.
        query: What asks for the lead, in one round trip.
    """

    def __init__(self, name: str) -> None:
        digest = hashlib.sha256(f"pgnotifier standby {name}".encode()).digest()
        high, low = digest[:4], digest[4:8]
        self.name = name
        # Advisory locks are by database, as channels are. pg_locks shows the key in two halves.
        # Not pg_advisory_lock(): a session that waits in there holds vacuum back.
        self.query = _QUERY % (
            int.from_bytes(digest[:8], signed=True),
            int.from_bytes(high),
            int.from_bytes(low),
        )
        self._signs: deque[Moment] = deque(maxlen=2)

    def learn(self, row: Sequence[bytes | None]) -> bool:
        """Take the query's answer; return whether this session leads now."""
        led, age = row
        if led == b"t":
            return True
        # Sessions of another role show no queries.
        sign = Moment.now().earlier(float(age or UNKNOWN_AGE))
        # What is left of a second is the way there and back.
        if not self._signs or sign.steady - self._signs[-1].steady > 0.5:
            self._signs.append(sign)
        return False

    def take_over(self) -> Moment | None:
        """Return since when nobody may have heard, as the lead is taken; None if nobody led.

        A leader sends its next query once the last one is answered, and with the answer came
        all that was pending. So what was committed before its last query but one had arrived.
        """
        if not self._signs:
            return None
        first, *more = self._signs
        self._signs.clear()
        return first if more else first.earlier(UNKNOWN_AGE)
