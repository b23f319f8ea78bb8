"""The reader's connection: wait for what arrives, read it, and send queries.

Whatever is sent has to be answered in time. Notifications that arrive before the answer are handed
to the router in their order.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from psycopg.pq import PGnotify

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import (
    ConnectionLostError,
    QueryCanceledError,
    Session,
    listen_query,
)
from pgnotifier._connection.wakeup import Waiter
from pgnotifier._listener.pause import OnPause, Pause
from pgnotifier._listener.round_trips import RoundTrips
from pgnotifier._listener.router import Router
from pgnotifier._runtime.clock import Moment
from pgnotifier._runtime.log_records import about
from pgnotifier.errors import ConnectionFailedError

logger = logging.getLogger("pgnotifier.link")

LISTEN_TIMEOUT = 30.0
"""Seconds for LISTEN on a new connection: PostgreSQL walks through its whole queue first."""

MOST_CANCELS = 10
"""How many times in a row a query may be canceled before that counts as an error."""

REST = 0.2
"""Seconds without data after which a connection that has ended counts as read to its end."""

BUSY = 1000
"""Notifications per second at which the reader starts to pause before it reads again."""
PAUSE = 0.001
"""Seconds of such a pause, in which several arrive. Waking two threads for each notification would
cost many times as much as reading and delivering it."""
LONG_PAUSE = 0.003
"""Seconds of a pause after a read that was cut short, in which the deliverers take what was read.
They would compete with the reader for the interpreter's lock, and for the lock of the memory that
the reader allocates and they free."""
READ_BYTES = 256 * 1024
"""The size of libpq's buffer: the most bytes that it reads at a time."""
LONG_ROW = b"SELECT pg_catalog.repeat('x', %d)" % (READ_BYTES // 2)
READS = 8
"""How often to read in one go while there is more.

Switching threads often costs more than reading for longer: what the other thread wrote has to come
from another processor's cache.
"""

SILENT = "LISTEN was accepted, but a notification to itself never arrived on this connection"


class SilentError(ConnectionLostError):
    """The server answers, but a notification to this listener doesn't arrive."""


class StoppingError(Exception):
    """`stop()` was called while the reader waited for something."""


Source = Callable[[], PGnotify | None]
"""Returns the next notification, or None."""


def again_if_canceled(ask: Callable[[], None]) -> None:
    """Call a function that sends a query, and call it again if somebody cancels that query.

    Whoever canceled it can't have meant a query of pgnotifier: pids are reused, for example.

    Raises:
        QueryCanceledError: It was canceled too many times.
    """
    for _ in range(MOST_CANCELS):
        try:
            return ask()
        except QueryCanceledError as exc:
            logger.info("%s; sending it again", exc, extra=about("canceled"))
    return ask()


class ReaderConnection:
    """The connection in use, owned by the reader; other threads only read the attributes.

    Attributes:
        parameters: Where to connect.
        router: Is handed what arrives.
        heartbeat: Seconds without anything after which a heartbeat is sent.
        timeout: Seconds within which it has to arrive.
        session: The connection; None while there is none.
        round_trips: What has been proven about the connection, and when the next proof is due.
        read_at: When the socket was last read, by `time.monotonic()`.
    """

    def __init__(
        self,
        parameters: Parameters,
        router: Router,
        heartbeat: float,
        timeout: float,
        is_stopping: Callable[[], bool],
        on_pause: OnPause | None = None,
    ) -> None:
        """Begin without a connection.

        Args:
            parameters: Where to connect.
            router: Is handed what arrives.
            heartbeat: Seconds without anything after which a heartbeat is sent.
            timeout: Seconds within which it has to arrive.
            is_stopping: Returns whether to give up whatever is waited for.
            on_pause: Is called when a long pause begins or ends.
        """
        self.parameters = parameters
        self.router = router
        self.heartbeat = heartbeat
        self.timeout = timeout
        self.session: Session | None = None
        self.round_trips = RoundTrips(heartbeat)
        self.read_at = monotonic()
        self._is_stopping = is_stopping
        self._waiter = Waiter(router.ring)
        self._pause = Pause(parameters, self._waiter, heartbeat, on_pause)
        self._next_pause = 0.0  # seconds; 0 while it waits for the socket
        self._reads_left = 0
        self._source: Source | None = None

    # --- waiting ---

    def wake(self) -> None:
        """End the current wait, or the next one. Any thread may call this."""
        self._waiter.wake()

    def wait(self, timeout: float, session: Session | None = None, *, write: bool = False) -> None:
        """Wait for a connection, a wake-up, or the time to pass, in seconds.

        Args:
            timeout: The longest wait.
            session: The connection. Default: the one in use, if there is one.
            write: Whether to wait until it can be written to, too.

        Raises:
            StoppingError: `stop()` was called.
        """
        watched = session or self.session
        self._waiter.wait(timeout, watched.fd if watched else None, write=write)
        self._check_stopping()

    def pause(self) -> None:
        """Wait for a wake-up without reading; PostgreSQL's queue holds the rest meanwhile.

        Raises:
            ConnectionLostError: The connection has ended meanwhile.
            StoppingError: `stop()` was called.
        """
        assert self.session is not None
        self._pause.wait(self.session, self._is_stopping)
        self._check_stopping()

    def _wait_for_more(self, timeout: float, *, write: bool = False) -> None:
        """Wait for more; while notifications arrive fast, pause, so that several are read."""
        if self._next_pause:
            self._waiter.pause(min(self._next_pause, timeout))
            self._check_stopping()
        else:
            self.wait(timeout, write=write)

    def _check_stopping(self) -> None:
        if self._is_stopping():
            raise StoppingError

    # --- reading ---

    def receive(self, timeout: float = math.inf) -> None:
        """Wait for notifications until the next round trip is due, and read them.

        The deliverers are woken when the reader waits next.

        Args:
            timeout: The longest wait, in seconds.

        Raises:
            ConnectionLostError: The connection was lost.
            StoppingError: `stop()` was called.
        """
        if self._pause.since is not None:
            self._pause.end()
        self._wait_for_more(min(timeout, self.round_trips.due_in))
        self._read()

    def read(self) -> None:
        """Read what has arrived, and wake the deliverers.

        Raises:
            ConnectionLostError: The connection was lost.
        """
        try:
            self._read()
        finally:
            self.router.ring()

    def _read(self) -> None:
        """Read what has arrived; the deliverers are woken when the reader waits next."""
        assert self.session is not None
        received = self.router.received
        try:
            self._reads_left = READS
            self._read_more()
            self._sort(self._read_more)
        except ConnectionLostError:
            self._sort()  # what arrived before
            raise
        finally:
            self.router.stow()
        now = monotonic()
        came_fast = self.router.received - received > BUSY * (now - self.read_at)
        self._next_pause = (PAUSE if self._reads_left else LONG_PAUSE) if came_fast else 0.0
        self.read_at = now

    def _read_more(self) -> bool:
        """Read what is there by now; return False if enough was read in one go."""
        assert self.session is not None
        if not self._reads_left:
            return False
        self._reads_left -= 1
        self.session.consume()
        return True

    def read_if_room(self) -> None:
        """Read what has arrived, if there is a connection and the buffers have room."""
        if self.session is None:
            return
        if self.router.is_full():
            self._waiter.forget(self.session.fd)  # or it would end each wait at once
        else:
            self.read()

    def read_last(self) -> None:
        """Read what has arrived, even if the connection is lost."""
        if self.session is not None:
            with contextlib.suppress(ConnectionLostError):
                self.read()

    def read_rest(self) -> None:
        """Read what is left on a connection that ended during a pause; it may be megabytes."""
        if self._pause.since is None:
            return
        with contextlib.suppress(ConnectionLostError):
            received = -1
            while self.router.received > received and not self.router.is_overfull():
                received = self.router.received
                self.read()
                if self.router.received == received:
                    self.wait(REST)
                    self.read()

    @contextlib.contextmanager
    def reading(self, source: Source) -> Iterator[None]:
        """Route what a source returns, instead of all that arrives on the connection."""
        self._source = source
        try:
            yield
        finally:
            self._source = None

    def hand_on(self) -> None:
        """Route what libpq has parsed, and wake the deliverers."""
        self._sort()
        self.router.hand_on()

    def _sort(self, read_more: Callable[[], bool] = lambda: False) -> None:
        assert self.session is not None
        source = self._source or self.session.notifies
        if self.router.sort(source, self.round_trips.proven_at, read_more):
            self.round_trips.note_arrival()

    # --- queries ---

    def ask(self, query: bytes) -> tuple[bytes | None, ...]:
        """Send a query, and read until it is answered; return its first row, empty if it has none.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer in time.
            ListenRefusedError: The server answered with an error.
        """
        assert self.session is not None
        self.round_trip(query, self.heartbeat + self.timeout)
        return self.session.row

    def read_more_at_a_time(self) -> None:
        """Have libpq make its buffer large: it does so for a long row, and keeps it.

        It begins with 16 kB. Each read lets the deliverers' threads have the interpreter's lock, so
        with two long notifications a read, changing threads costs more than reading does.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer in time.
            ListenRefusedError: The server answered with an error.
        """
        assert self.session is not None
        self.ask(LONG_ROW)
        self.session.row = ()

    def change(self, verb: str, channels: Iterable[str]) -> None:
        """LISTEN to channels, or UNLISTEN, and read until that is done.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer in time.
            ListenRefusedError: The server answered with an error.
        """
        assert self.session is not None
        self.ask(listen_query(channels, verb, self.session.encoding))

    def round_trip(self, query: bytes, timeout: float, token: str | None = None) -> None:
        """Send a query, and read until it is answered; send it again if it is canceled.

        Args:
            query: The query.
            timeout: Seconds without anything after which to give up.
            token: What has to arrive on the private channel besides the answer, if anything.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer in time.
            ListenRefusedError: The server answered with an error.
        """
        again_if_canceled(lambda: self._try_round_trip(query, timeout, token))

    def _try_round_trip(self, query: bytes, timeout: float, token: str | None) -> None:
        assert self.session is not None
        begun = Moment.now()
        self.router.echoes.clear()
        deadline = begun.steady + timeout
        self.session.send(query)
        answered = False
        try:
            while True:
                unsent = self.session.flush()
                received = self.router.received
                # All that is pending arrives before the answer, even if it is a million.
                self._read()
                answered = answered or (not unsent and self.session.answered())
                self._sort()  # what was read together with the answer
                self.router.stow()
                if answered and (token is None or token in self.router.echoes):
                    break
                if self.router.received > received:
                    deadline = monotonic() + timeout  # the server is still sending
                if self.router.is_overfull():
                    # Before it answers, the server sends all that is pending, even gigabytes.
                    while self.router.is_full():
                        self.pause()
                    deadline = monotonic() + timeout
                left = deadline - monotonic()
                if left <= 0:
                    silent = f"no answer from the server for {timeout:g} s"
                    raise SilentError(SILENT) if answered else ConnectionLostError(silent)
                self._wait_for_more(left, write=unsent)
        finally:
            # What arrived just before the answer, even an error, may have been read with it.
            self.hand_on()
        self.round_trips.note_success(begun)

    def lost_before_listening(self, exc: Exception) -> ConnectionFailedError:
        """Return the error for a new connection that was lost before it listened."""
        return ConnectionFailedError(
            f"lost the connection to PostgreSQL ({self.parameters!r}) before it answered "
            f"LISTEN: {exc}"
        )

    # --- closing ---

    def forget(self, session: Session) -> None:
        """Close a connection that isn't in use."""
        self._waiter.forget(session.fd)
        session.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.session is not None:
            self.forget(self.session)
            self.session = None
        self._pause.forget()

    def end(self) -> None:
        """Close everything, as the reader ends."""
        self.close()
        self._waiter.close()

    def forget_in_child(self) -> None:
        """Close what wakes the parent's reader, in a forked child."""
        self._waiter.close()
