"""The link: the reader's connection, and what proves that it hears.

A connection can be dead without either end knowing: behind a firewall that has forgotten it, a
pooler that has swallowed LISTEN, a middlebox that answers keepalives. So a *heartbeat* is a
notification to oneself, sent when nothing else has come for a while; and whatever is asked has to
be answered in time.
"""

import contextlib
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic

from psycopg.pq import PGnotify

from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import (
    ConnectionLostError,
    QueryCanceledError,
    Session,
    listen_query,
    notify_query,
)
from pgnotifier._connection.session_settings import setup_query
from pgnotifier._connection.wakeup import Waiter
from pgnotifier._listener.pause import IDENTITY, Pause
from pgnotifier._listener.router import Router
from pgnotifier._runtime.clock import Moment
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.log_throttle import LogThrottle
from pgnotifier.errors import ListenRefusedError, NotListeningError
from pgnotifier.status import Latency

logger = logging.getLogger("pgnotifier.link")

PROOF = 1.0
"""Seconds between round trips while notifications flow: what bounds how far back a gap reaches."""
LISTEN_TIMEOUT = 30.0
"""Seconds for LISTEN on a new connection: PostgreSQL walks through its whole queue first."""
HEDGE = 1.0
"""Seconds after which a try to connect is joined by another one."""
MOST_TRIES = 10
"""How many of them there are at a time."""

MOST_CANCELS = 10
"""How often in a row a query may be canceled before that counts as an error."""

REST = 0.2
"""Seconds without anything after which a connection that has ended holds nothing more."""

BUSY = 1000
"""Notifications a second from which on the reader pauses before it reads again."""
PAUSE = 0.001
"""Seconds of such a pause, in which several come: waking two threads for each of them would cost
many times what reading and delivering it does."""
READS = 16
"""How often to read in one go, while there is more: libpq reads 16 kB at a time."""

POOLED = (
    "LISTEN was accepted, but a notification that another connection sent never arrived: there "
    "is a pooler in transaction or statement mode in between. Connect to PostgreSQL itself, or "
    "to a pool in session mode (PgBouncer: pool_mode=session for this database)"
)
SILENT = "LISTEN was accepted, but a notification to itself never arrived on this connection"


class _SilentError(ConnectionLostError):
    """The server answers, but what is notified doesn't come."""


class StoppingError(Exception):
    """`stop()` was called while the reader waited for something."""


Source = Callable[[], PGnotify | None]
"""Returns the next notification, or None."""


def again_if_canceled(ask: Callable[[], None]) -> None:
    """Call what sends a query, and again if that is canceled: it was no query of whoever did it.

    Raises:
        QueryCanceledError: It was canceled time and again.
    """
    for _ in range(MOST_CANCELS):
        try:
            return ask()
        except QueryCanceledError as exc:
            logger.info("%s; sending it again", exc, extra=about("canceled"))
    return ask()


def _read_nothing() -> bool:
    return False


class Link:
    """The connection in use, owned by the reader; others only read the attributes.

    Attributes:
        proven_at: All that was committed before has been read, if it was to be heard.
        latency: Of round trips, None before the first.
        session: The connection, None between two.
    """

    def __init__(
        self,
        parameters: Parameters,
        router: Router,
        heartbeat: float,
        timeout: float,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Make a link without a connection.

        Args:
            parameters: Where to connect.
            router: Who gets what comes.
            heartbeat: Seconds without anything after which to send oneself a notification.
            timeout: Seconds within which it has to come back.
            is_stopping: Tells whether to give up whatever is waited for.
        """
        self.proven_at = Moment.now()
        self.latency: Latency | None = None
        self.session: Session | None = None
        self._parameters = parameters
        self._router = router
        self._heartbeat = heartbeat
        self._timeout = timeout
        self._is_stopping = is_stopping
        self._waiter = Waiter(router.ring)
        self._warn = LogThrottle(logger)
        self._pause = Pause(parameters, self._waiter, heartbeat)
        self._due_at = monotonic()
        self._heard_at = monotonic()
        self._is_busy = False
        self._reads_left = 0
        self._unproven = False
        self._source: Source | None = None

    def wake(self) -> None:
        """End the wait under way, or the next one; called by any thread."""
        self._waiter.wake()

    def wait(self, timeout: float, *, read: bool = True, write: bool = False) -> None:
        """Wait for the connection, a wake-up, or the time to pass, in seconds.

        Raises:
            StoppingError: `stop()` was called.
        """
        fd = None if self.session is None else self.session.fd
        self._waiter.wait(timeout, fd, read=read, write=write)
        self._check_stopping()

    def pause(self) -> None:
        """Wait without reading: PostgreSQL's own queue holds the rest. To be woken.

        Raises:
            ConnectionLostError: The connection has ended meanwhile.
            StoppingError: `stop()` was called.
        """
        assert self.session is not None
        self._pause.wait(self.session, self._is_stopping)
        if self._is_stopping():
            raise StoppingError

    def hear(self, timeout: float = math.inf) -> None:
        """Wait for what comes, some seconds at most, or until the next round trip; make that."""
        if self._pause.since is not None:
            self._pause.end()
        self._wait_for_more(min(timeout, max(0.0, self._due_at - monotonic())))
        self._drain()
        if self._heard_at >= self._due_at:
            # While notifications flow it is known to hear, just not up to when.
            if self._unproven:
                self.ask(b"SELECT 1")
            else:
                self._prove_idle()

    def show(self) -> None:
        """Ask something: standbys see when, and that what came before it has been read.

        Unless notifications have come, the next heartbeat stays due when it is: an answer doesn't
        show that they would.
        """
        due_at, is_idle = self._due_at, not self._unproven
        self._round_trip(b"SELECT 1", self._timeout)
        if is_idle and not self._unproven:
            self._due_at = due_at

    def _wait_for_more(self, timeout: float, *, write: bool = False) -> None:
        """Wait for what comes; while notifications come fast, pause instead, to read several."""
        if self._is_busy:
            self._waiter.pause(min(PAUSE, timeout))
            self._check_stopping()
        else:
            self.wait(timeout, write=write)

    def _prove_idle(self) -> None:
        try:
            self.beat()
        except ListenRefusedError as exc:  # the queue is full, say: it hears, but can't notify
            extra = about("heartbeat_refused", error=type(exc).__name__)
            self._warn("the server refused the heartbeat: %s", exc, extra=extra)
            self.ask(b"SELECT 1")

    # --- connecting ---

    def connect(self, *, hedged: bool = False) -> Session:
        """Return a new connection; what comes on the one in use is read meanwhile.

        Args:
            hedged: Whether to begin another try each second while none has an answer. One
                that began while the network was away may not notice for long that it is back, and
                one to several hosts waits for each that hangs.

        Raises:
            PgNotifierError: No connection could be made.
        """
        tries: list[Connecting] = []
        try:
            while True:
                tries.append(self._begin(shuffle=bool(tries)))
                may_hedge = hedged and len(tries) < MOST_TRIES
                done = self._await(tries, HEDGE if may_hedge else None)
                if done is not None:
                    tries.remove(done)
                    return done.result()
        finally:
            for other in tries:
                other.abandon()

    def listen(self, channels: Iterable[str]) -> None:
        """Listen to channels on a new connection, and see that it hears.

        Raises:
            ConnectionLostError: The connection went, or gave no answer.
            ListenRefusedError: The server refused, as a standby does.
            NotListeningError: What is sent doesn't arrive.
        """
        assert self.session is not None
        query = listen_query({*channels, self._router.private}, encoding=self.session.encoding)
        self._round_trip(query, LISTEN_TIMEOUT)
        self.check_listening()

    def check_listening(self) -> None:
        """See that what is sent arrives, and what others send.

        Raises:
            ConnectionLostError: The connection went, or gave no answer.
            NotListeningError: It doesn't.
        """
        assert self.session is not None
        try:
            server_pid = self.beat()
        except _SilentError as exc:
            raise NotListeningError(f"{SILENT} ({self._parameters!r})") from exc
        # Poolers make up the pid that they tell their clients.
        if server_pid != self.session.backend_pid:
            self._check_pooler()
            self.session.is_pooled = True
            self.ask(setup_query(server_pid).encode())
        with contextlib.suppress(ListenRefusedError):  # no right to look
            self.session.identity = self.ask(IDENTITY)

    def wait_for(self, session: Session, timeout: float, *, write: bool) -> None:
        """Wait for another connection than the one in use; else as `wait`."""
        self._waiter.wait(timeout, session.fd, write=write)
        self._check_stopping()

    def forget(self, session: Session) -> None:
        """Close another connection."""
        self._waiter.forget(session.fd)
        session.close()

    @contextlib.contextmanager
    def reading(self, source: "Source") -> Iterator[None]:
        """Hand on from a source in the place of all that comes on the connection."""
        self._source = source
        try:
            yield
        finally:
            self._source = None

    def close(self) -> None:
        """Let go of the connection, if there is one."""
        if self.session is not None:
            self._waiter.forget(self.session.fd)
            self.session.close()
            self.session = None
        self._pause.forget()

    def end(self) -> None:
        """Close everything, as the reader ends."""
        if self.session is not None:
            self.session.close()
        self._pause.forget()
        self._waiter.close()

    def forget_in_child(self) -> None:
        """Close what wakes the parent's reader, in a forked child."""
        self._waiter.close()

    # --- asking ---

    def ask(self, query: bytes) -> tuple[bytes | None, ...]:
        """Send a query and hear on until it is answered; return its first row, if it has one.

        Raises:
            ConnectionLostError: The connection went, or gave no answer in time.
            ListenRefusedError: The server answered with an error.
        """
        assert self.session is not None
        self._round_trip(query, self._heartbeat + self._timeout)
        return self.session.row

    def change(self, verb: str, channels: Iterable[str]) -> None:
        """LISTEN to channels, or UNLISTEN, and hear on until that is done.

        Raises:
            ConnectionLostError: The connection went, or gave no answer in time.
            ListenRefusedError: The server answered with an error.
        """
        assert self.session is not None
        self.ask(listen_query(channels, verb, self.session.encoding))

    def beat(self) -> int:
        """Notify oneself, and hear on until that has come back; return the server's pid.

        Raises:
            ConnectionLostError: It didn't in time, or the connection went.
        """
        token = secrets.token_hex(8)
        self._round_trip(notify_query(self._router.private, token), self._timeout, token)
        return self._router.echoes.pop(token)

    def drain(self) -> None:
        """Read what has arrived, and hand it on.

        Raises:
            ConnectionLostError: The server is gone.
        """
        try:
            self._drain()
        finally:
            self._router.ring()

    def _drain(self) -> None:
        """Do so, but have it delivered only when the reader waits next."""
        assert self.session is not None
        received = self._router.received
        try:
            self._reads_left = READS
            self._read_more()
            self._sort(self._read_more)
        except ConnectionLostError:
            self._sort()  # what came before
            raise
        finally:
            self._router.stow()
        now = monotonic()
        came_fast = self._router.received - received > BUSY * (now - self._heard_at)
        self._is_busy = came_fast and self._reads_left > 0
        self._heard_at = now

    def drain_last(self) -> None:
        """Read what has arrived, lost or not."""
        if self.session is not None:
            with contextlib.suppress(ConnectionLostError):
                self.drain()

    def drain_rest(self) -> None:
        """Read what is left on a connection that has ended in a pause: it may be megabytes."""
        if self._pause.since is None:
            return
        with contextlib.suppress(ConnectionLostError):
            received = -1
            while self._router.received > received and not self._router.is_overfull():
                received = self._router.received
                self.drain()
                if self._router.received == received:
                    self.wait(REST)
                    self.drain()

    def _round_trip(self, query: bytes, timeout: float, token: str | None = None) -> None:
        """Make one, again if it is canceled."""
        again_if_canceled(lambda: self._try_round_trip(query, timeout, token))

    def _try_round_trip(self, query: bytes, timeout: float, token: str | None) -> None:
        assert self.session is not None
        begun = Moment.now()
        self._router.echoes.clear()
        deadline = begun.steady + timeout
        self.session.send(query)
        answered = False
        try:
            while True:
                unsent = self.session.flush()
                received = self._router.received
                # As elsewhere: all that is pending comes before the answer, be it a million.
                self._drain()
                answered = answered or (not unsent and self.session.answered())
                self._sort()  # what was read together with the answer
                self._router.stow()
                if answered and (token is None or token in self._router.echoes):
                    break
                if self._router.received > received:
                    deadline = monotonic() + timeout  # there is just so much to be read
                if self._router.is_overfull():
                    self._wait_for_room()
                    deadline = monotonic() + timeout
                left = deadline - monotonic()
                if left <= 0:
                    silent = f"no answer from the server for {timeout:g} s"
                    raise _SilentError(SILENT) if answered else ConnectionLostError(silent)
                self._wait_for_more(left, write=unsent)
        finally:
            # What came just before the answer, be it a refusal, may have been read with it.
            self.hand_on()
        self._prove(begun)

    def _wait_for_room(self) -> None:
        """Pause: before it answers, the server sends all that is pending, be it gigabytes."""
        while self._router.is_full():
            self.pause()

    def _prove(self, begun: Moment) -> None:
        now = monotonic()
        self.proven_at = begun
        self.latency = (self.latency or Latency(0, 0, 0, 0)).plus(now - begun.steady)
        self._unproven = False
        self._due_at = now + self._heartbeat

    def hand_on(self) -> None:
        """Hand on what libpq has parsed."""
        self._sort()
        self._router.hand_on()

    def _sort(self, read_more: Callable[[], bool] = _read_nothing) -> None:
        assert self.session is not None
        source = self._source or self.session.notifies
        arrived = self._router.sort(source, self.proven_at, read_more)
        if arrived and not self._unproven:
            self._unproven = True
            self._due_at = min(self._due_at, monotonic() + PROOF)

    def _read_more(self) -> bool:
        """Read what is there by now; return False if enough was read in one go."""
        assert self.session is not None
        if not self._reads_left:
            return False
        self._reads_left -= 1
        self.session.consume()
        return True

    def _check_stopping(self) -> None:
        if self._is_stopping():
            raise StoppingError

    def _begin(self, *, shuffle: bool) -> Connecting:
        return Connecting(self._parameters, self._waiter.wake, shuffle=shuffle)

    def _await(self, tries: Sequence[Connecting], timeout: float | None) -> Connecting | None:
        """Return the first of several that is done, None if none is after so many seconds."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            for one in tries:
                if one.done:
                    return one
            left = self._heartbeat if deadline is None else deadline - monotonic()
            if left <= 0:
                return None
            self.wait(left)
            self.drain_beside()

    def drain_beside(self) -> None:
        """Read what has arrived on the connection in use, if there is room for it."""
        if self.session is None:
            return
        if self._router.is_full():
            self._waiter.forget(self.session.fd)  # lest it end each wait at once
        else:
            self.drain()

    def _check_pooler(self) -> None:
        """See that what another connection sends arrives on this one.

        A notification to oneself says nothing behind a pooler: both may have been given the
        same server connection.
        """
        token = secrets.token_hex(8)
        query = notify_query(self._router.private, token)
        connecting = Connecting(self._parameters, self._waiter.wake, query)
        try:
            self._await([connecting], self._timeout)
            if not connecting.done or connecting.has_failed:
                # A pool in transaction mode would have had room for it.
                extra = about("pooler_unknown")
                logger.info("no second connection to see what the pooler does", extra=extra)
                return
            deadline = monotonic() + self._timeout
            while token not in self._router.echoes:
                left = deadline - monotonic()
                if left <= 0:
                    raise NotListeningError(f"{POOLED} ({self._parameters!r})")
                self.wait(left)
                self.drain()
        finally:
            connecting.abandon()
            self._router.echoes.clear()
