"""The leader's lock: several listeners share a name; one of them leads, and the others wait.

The leader holds an advisory lock in the session that listens, so it loses the lock together with
the connection. Standbys ask for the lock once a second and don't listen: every session that listens
slows all senders down.
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

import hashlib
from collections import deque
from collections.abc import Sequence

from pgnotifier._inquiry.marks import IS_ASKED
from pgnotifier._runtime.clock import Moment

UNKNOWN_AGE = 45.0
"""How far back a gap reaches, in seconds, if nothing is known about the leader: as long as it takes
to notice a dead connection."""

_QUERY = b"""
SELECT pg_catalog.pg_try_advisory_lock(%d), EXTRACT(epoch FROM pg_catalog.min(query_start)),
  EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
    pg_catalog.min(query_start)),
  pg_catalog.min(leader.pid),
  EXISTS (SELECT FROM pg_catalog.pg_locks AS held JOIN pg_catalog.pg_stat_activity AS companion
    ON companion.pid OPERATOR(pg_catalog.=) held.pid WHERE %b), %b
FROM pg_catalog.pg_locks AS held JOIN pg_catalog.pg_stat_activity AS leader
ON leader.pid OPERATOR(pg_catalog.=) held.pid WHERE %b"""
_HELD = b"""
locktype OPERATOR(pg_catalog.=) 'advisory' AND classid OPERATOR(pg_catalog.=) %d
AND objid OPERATOR(pg_catalog.=) %d AND objsubid OPERATOR(pg_catalog.=) 1
AND granted AND datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"""
_ACCOMPANY = b"SELECT pg_catalog.pg_try_advisory_lock_shared(%d)"
TERMINATE = b"SELECT pg_catalog.pg_terminate_backend(%d)"
"""Ends the session of a leader that has vanished, given its pid."""


class Standby:
    """What one listener knows about the leader; owned by its reader.

    Attributes:
        name: What the listeners share.
        query: Asks for the lead, in one round trip.
        accompany: Takes the lock of a leader's companion.
        vanished: The pid of a leader's session if its client seems to have vanished.
        is_asked: Whether somebody asks listeners questions, for example with `pgnotifier status`.
    """

    def __init__(self, name: str, heartbeat: float = 15.0, timeout: float = 5.0) -> None:
        """Begin without knowing of a leader.

        Args:
            name: What the listeners share.
            heartbeat: Seconds after which an idle leader sends a query at the latest.
            timeout: Seconds within which the query is answered.
        """
        digest = hashlib.sha256(f"pgnotifier standby {name}".encode()).digest()
        lead, companion = digest[:8], digest[8:16]
        self.name = name
        # Advisory locks are by database, as channels are. pg_locks shows the key in two halves.
        # Not pg_advisory_lock(): a session that waits in it holds vacuum back.
        self.query = _QUERY % (_key(lead), _held(companion), IS_ASKED, _held(lead))
        self.accompany = _ACCOMPANY % _key(companion)
        self.vanished: int | None = None
        self.is_asked = False
        self._alone_for = heartbeat + timeout
        self._silent_for = max(UNKNOWN_AGE, 2 * heartbeat + timeout)
        self._forget()

    def _forget(self) -> None:
        self._signs: deque[Moment] = deque(maxlen=2)
        self._seen: bytes | None = None
        self._asked_at: Moment | None = None
        self._accompanied: bytes | None = None
        self._accompanied_at = self._sign_at = 0.0

    def learn(self, row: Sequence[bytes | None], asked_at: Moment) -> bool:
        """Take the answer to `query`; return whether this session leads now.

        Args:
            row: The answer.
            asked_at: When the query was sent, or earlier. The answer may have been read much
                later, which doesn't show when the server looked.
        """
        led, begun, age, pid, is_accompanied, is_asked = row
        self.vanished, self.is_asked = None, is_asked == b"t"
        if led == b"t":
            return True
        before, self._asked_at = self._asked_at, asked_at
        if begun is None:  # sessions of another role show no queries
            self._signs.append(asked_at.earlier(UNKNOWN_AGE))
        elif begun != self._seen:
            # A query that the last answer didn't show began after that answer was asked for.
            # (The age of a query isn't reliable: the server's clock may have been set.)
            self._signs.append(before or asked_at.earlier(max(0.0, float(age or 0))))
        now = asked_at.steady
        if begun != self._seen or pid != self._accompanied:
            self._sign_at = now
        self._seen = begun
        if is_accompanied == b"t":
            self._accompanied, self._accompanied_at = pid, now
        elif begun is not None and pid is not None and pid == self._accompanied:
            alone, silent = now - self._accompanied_at, now - self._sign_at
            if alone >= self._alone_for and silent >= self._silent_for:
                self.vanished, self._accompanied = int(pid), None  # once
        return False

    def take_over(self) -> Moment | None:
        """Take the lead; return since when notifications may be missed, None if nobody led.

        A leader sends its next query once the last one is answered, and everything that was
        pending arrived before that answer. So everything that was committed before its
        second-to-last query has arrived.
        """
        signs = [*self._signs]
        self._forget()
        if not signs:
            return None
        first, *more = signs
        return first if more else first.earlier(UNKNOWN_AGE)


def _key(digest: bytes) -> int:
    return int.from_bytes(digest, signed=True)


def _held(digest: bytes) -> bytes:
    return _HELD % (int.from_bytes(digest[:4]), int.from_bytes(digest[4:]))
