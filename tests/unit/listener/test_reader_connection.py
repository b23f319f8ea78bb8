"""The reader's connection, with a session made for the tests, where exact timing matters."""

import os
import threading
from time import monotonic

import pytest
from psycopg.pq import PGnotify

from pgnotifier import InlineDispatcher, ListenRefusedError, Subscription
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import ConnectionLostError
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._listener import reader_connection
from pgnotifier._listener.reader_connection import (
    LONG_PAUSE,
    READS,
    ReaderConnection,
    StoppingError,
)
from pgnotifier._listener.router import Router
from pgnotifier._registry.registry import Registry
from pgnotifier.dispatch import Binding
from pgnotifier.status import Latency


class LateNotification:
    """A session in which libpq finds a notification only while it looks for the answer."""

    def __init__(self, fd, outcome):
        self.fd = fd
        self.outcome = outcome
        self.arrived = []
        self.row = ()

    def send(self, query):
        """Accept a query."""

    def flush(self):
        """Return that nothing is left to send."""
        return False

    def consume(self):
        """Do nothing, because there is nothing to read."""

    def notifies(self):
        """Return the next parsed notification."""
        return self.arrived.pop(0) if self.arrived else None

    def close(self):
        """Do nothing."""

    def answered(self):
        """Parse the notification and the answer."""
        self.arrived.append(PGnotify(relname=b"a", be_pid=7, extra=b"1"))
        if self.outcome:
            raise self.outcome
        return True


@pytest.mark.parametrize("outcome", [None, ListenRefusedError("no"), ConnectionLostError("gone")])
def test_what_comes_with_an_answer(make_deliverer, record, outcome):
    """A notification that arrives with an answer, a refusal or the end is delivered at once."""
    inline = InlineDispatcher()
    binding = Binding(Subscription(1, "a", record, inline), record, lambda *_: None)
    registry = Registry().bind(binding)
    router = Router(lambda: registry, lambda _: make_deliverer(inline), set)
    connection = ReaderConnection(Parameters({}), router, 15.0, 5.0, lambda: False)
    end, other = os.pipe()
    try:
        connection.session = LateNotification(end, outcome)
        if outcome:
            with pytest.raises(type(outcome)):
                connection.ask(b"LISTEN b")
        else:
            connection.ask(b"LISTEN b")
        assert record.wait_for(1) == [1]
        assert isinstance(router.deliverers[inline], Deliverer)
    finally:
        connection.end()
        os.close(end)
        os.close(other)


class Flood:
    """A session that can read `count` notifications at once."""

    def __init__(self, fd):
        self.fd = fd
        self.count = 0
        self.parsed = 0
        self.row = ()
        self.looks = 0

    def send(self, query):
        """Accept a query."""

    def flush(self):
        """Return that nothing is left to send."""
        return False

    def answered(self):
        """Return whether this is the second look for the answer."""
        self.looks += 1
        return self.looks == 2

    def consume(self):
        """Read everything."""
        self.parsed, self.count = self.count, 0

    def notifies(self):
        """Return the next parsed notification."""
        if not self.parsed:
            return None
        self.parsed -= 1
        return PGnotify(relname=b"a", be_pid=7, extra=b"1")

    def close(self):
        """Do nothing."""


@pytest.fixture
def flooded(monkeypatch):
    """Yield a connection that pauses for a minute, its session, and an event that stops it."""
    monkeypatch.setattr(reader_connection, "PAUSE", 60.0)
    stopping = threading.Event()
    router = Router(Registry, lambda _: None, set)
    connection = ReaderConnection(Parameters({}), router, 600.0, 5.0, stopping.is_set)
    connection.round_trips.due_at, connection.round_trips.is_unproven = monotonic() + 600, True
    end, other = os.pipe()
    os.write(other, b"readable")
    connection.session = Flood(end)
    yield connection, connection.session, stopping
    connection.end()
    os.close(end)
    os.close(other)


def test_what_comes_now_and_then_is_not_held_up(flooded):
    """Single notifications, or several after quiet, are read without a pause."""
    connection, session, _ = flooded
    begun = monotonic()
    for count in (1, 5, 1):
        connection.read_at -= 1  # it was quiet for a second
        session.count = count
        connection.receive()
    assert connection.router.received == 7
    assert monotonic() - begun < 30


@pytest.mark.parametrize("stops", [False, True])
def test_a_pause_while_notifications_come_fast(flooded, stops):
    """After many notifications the reader pauses, until a command or `stop` ends the pause."""
    connection, session, stopping = flooded
    session.count = 100_000
    connection.read_at = monotonic()
    connection.receive()
    session.count = 3
    begun = monotonic()
    waker = threading.Timer(0.2, lambda: (stops and stopping.set(), connection.wake()))
    waker.start()
    if stops:
        with pytest.raises(StoppingError):
            connection.receive()
    else:
        connection.receive()
        assert connection.router.received == 100_003
    assert 0.15 < monotonic() - begun < 30
    waker.join()


def test_a_pause_after_a_read_that_was_cut_short(flooded):
    """While there is always more, the reader pauses for a moment, and not until it is woken."""
    connection, session, _ = flooded
    session.consume = lambda: setattr(session, "parsed", 100)
    connection.receive()
    assert connection.router.received == READS * 100
    begun = monotonic()
    connection.receive()
    assert LONG_PAUSE <= monotonic() - begun < 30
    assert connection.router.received == 2 * READS * 100


def test_a_pause_before_an_answer(flooded):
    """The reader also pauses when a long queue is sent before the answer to a query."""
    connection, session, _ = flooded
    session.count = 10_000
    woken = threading.Event()
    waker = threading.Timer(0.3, lambda: (woken.set(), connection.wake()))
    waker.start()
    connection.read_at = monotonic()
    connection.ask(b"SELECT 1")
    assert woken.is_set()
    assert connection.router.received == 10_000
    waker.join()


def test_latency():
    """The latency has the last round trip, the highest, and the mean of all."""
    latency = Latency(0, 0, 0, 0).plus(0.1).plus(0.3).plus(0.2)
    assert (latency.last, latency.highest, latency.count) == (0.2, 0.3, 3)
    assert latency.mean == pytest.approx(0.2)
