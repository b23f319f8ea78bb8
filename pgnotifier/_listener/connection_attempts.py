"""Attempts to connect, several at a time if none is answered; the old connection is read meanwhile.

An attempt that began while the network was away may not notice for a long time that it is back, and
an attempt to several hosts waits for each host that hangs. So another attempt is added each second
("hedging"), and the first that succeeds is used.
"""

from collections.abc import Sequence
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.session import Session
from pgnotifier._listener.reader_connection import ReaderConnection

HEDGE = 1.0
"""Seconds after which another attempt is added."""
MOST_TRIES = 10
"""The largest number of attempts at a time."""


def connect(connection: ReaderConnection, *, hedged: bool = False) -> Session:
    """Return a new connection; the reader's connection is read meanwhile.

    Args:
        connection: The reader's connection.
        hedged: Whether to add another attempt each second until one is answered.

    Raises:
        PgNotifierError: No connection could be made.
    """
    tries: list[Connecting] = []
    try:
        while True:
            tries.append(Connecting(connection.parameters, connection.wake, shuffle=bool(tries)))
            may_hedge = hedged and len(tries) < MOST_TRIES
            done = wait_for_any(connection, tries, HEDGE if may_hedge else None)
            if done is not None:
                tries.remove(done)
                return done.result()
    finally:
        for other in tries:
            other.abandon()


def wait_for_any(
    connection: ReaderConnection, tries: Sequence[Connecting], timeout: float | None
) -> Connecting | None:
    """Return the first attempt that is done, or None if none is within a time in seconds."""
    deadline = None if timeout is None else monotonic() + timeout
    while True:
        for one in tries:
            if one.done:
                return one
        left = connection.heartbeat if deadline is None else deadline - monotonic()
        if left <= 0:
            return None
        connection.wait(left)
        connection.read_if_room()
