"""Attempts to connect, several at a time if none is answered; the old connection is read meanwhile.

An attempt that began while the network was away may not notice for a long time that it is back, and
an attempt to several hosts waits for each host that hangs. So another attempt is added each second
("hedging"), and the first that succeeds is used. A `db_conf` callable that hangs is called once
more, and not again until it returns.
"""

from collections.abc import Callable, Sequence
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.session import Session
from pgnotifier._listener.reader_connection import ReaderConnection
from pgnotifier._runtime.log_records import duration

HEDGE = 1.0
"""Seconds after which another attempt is added."""
MOST_TRIES = 10
"""The largest number of attempts at a time."""
MOST_ASKING = 2
"""The largest number of attempts at a time that wait for a `db_conf` callable."""
SILENCE = 10.0
"""Seconds after which a callable that hasn't returned is blamed for the missing connection."""


def connect(
    connection: ReaderConnection,
    *,
    hedged: bool = False,
    explain: Callable[[str], object] = lambda _why: None,
) -> Session:
    """Return a new connection; the reader's connection is read meanwhile.

    Args:
        connection: The reader's connection.
        hedged: Whether to add another attempt each second until one is answered.
        explain: Called with the reason, repeatedly, while a `db_conf` callable hangs.

    Raises:
        PgNotifierError: No connection could be made.
    """
    tries: list[Connecting] = []
    parameters, began = connection.parameters, monotonic()
    try:
        while True:
            asking = sum(one.is_asking for one in tries)
            if not tries or (hedged and len(tries) < MOST_TRIES and asking < MOST_ASKING):
                tries.append(Connecting(parameters, connection.wake, shuffle=bool(tries)))
            done = wait_for_any(connection, tries, HEDGE)
            if done is not None:
                tries.remove(done)
                return done.result()
            lasted = monotonic() - began
            if lasted >= SILENCE and all(one.is_asking for one in tries):
                explain(f"{parameters.source} hasn't returned for {duration(lasted)}")
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
