"""Lifecycle: what starts and ends with a listener, and which calls wait for it."""

from types import SimpleNamespace

import pytest

from pgnotifier import ConnectionFailedError, Notifier, NotifierStoppedError, NotLiveError
from pgnotifier._notifier import lifecycle as module
from pgnotifier._runtime.sync import Gate, Outcome


class Listener:
    """A listener that connects and ends when the test says so."""

    def __init__(self):
        self.ready = Outcome()
        self.ended = Gate()
        self.is_alive = True
        self.has_failed = False
        self.aborted = None
        self.asked = []
        self.deliverers = {}

    def start(self):
        """Begin to connect."""

    def end(self, why):
        """Record why it didn't start."""
        self.aborted = why

    def request(self, verb, channels=()):
        """Record a request, which is done at once."""
        outcome = Outcome()
        outcome.settle()
        self.asked.append((verb, channels))
        return outcome

    def stop(self, timeout):
        """End without giving anything up."""
        self.is_alive = False
        self.ended.open()
        return 0

    def waits_for_caller(self):
        """Return whether it waits for the calling code."""
        return False

    def delivering_here(self):
        """Return an empty list of threads."""
        return []


@pytest.fixture
def notifier():
    """Return a notifier for a server that doesn't exist."""
    return Notifier("host=nowhere", daemon=True)


@pytest.fixture
def lifecycle(notifier):
    """Yield a lifecycle with listeners that don't connect."""
    lifecycle = notifier._lifecycle
    made = []

    def make():
        made.append(Listener())
        return made[-1]

    lifecycle._make_listener = make
    lifecycle.made = made
    yield lifecycle
    lifecycle.stop(0)


def test_one_listener_at_a_time(lifecycle):
    """A listener is started once, and the next one after it has stopped."""
    lifecycle.begin()
    lifecycle.begin()
    assert len(lifecycle.made) == 1
    assert lifecycle.is_starting()
    assert not lifecycle.wait(0)
    lifecycle.stop(1)
    assert lifecycle.wait(0)
    lifecycle.begin()
    assert len(lifecycle.made) == 2


def test_no_connection_in_time(lifecycle):
    """If there is no connection in time, the listener is stopped and the error has the time."""
    lifecycle.startup_wait = 0.2
    with pytest.raises(ConnectionFailedError, match=r"within 0\.2 s.*host=nowhere"):
        lifecycle.start()
    assert lifecycle.listener is None
    assert not lifecycle.made[0].is_alive


def test_a_dispatcher_that_cannot_be_opened(lifecycle, notifier):
    """If a dispatcher can't be opened, the start fails, and nothing is left running."""
    notifier._lifecycle.attachments.default.open = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        lifecycle.start()
    assert isinstance(lifecycle.made[0].aborted, ZeroDivisionError)
    assert not lifecycle.is_running()


def test_starting_is_interrupted(lifecycle, notifier):
    """On Ctrl-C, waiting calls get NotifierStoppedError, not KeyboardInterrupt."""

    def interrupt():
        raise KeyboardInterrupt

    notifier._lifecycle.attachments.default.open = interrupt
    with pytest.raises(KeyboardInterrupt):
        lifecycle.begin()
    assert isinstance(lifecycle.made[0].aborted, NotifierStoppedError)


def test_restarts_what_runs(lifecycle):
    """`restart` has the running listener replace its connection, without a new listener."""
    lifecycle.begin()
    lifecycle.restart()
    (listener,) = lifecycle.made
    assert listener.asked == [("restart", ())]


@pytest.mark.parametrize("full", [False, True])
def test_not_confirmed_in_time(lifecycle, monkeypatch, full):
    """The error shows the state, and whether a buffer is full."""
    monkeypatch.setattr(module, "LIVE_TIMEOUT", 0.0)
    lifecycle.begin()
    lifecycle.listener.deliverers[0] = SimpleNamespace(buffer=SimpleNamespace(full=full))
    with pytest.raises(NotLiveError, match="state: stopped, a buffer" if full else r"stopped\)"):
        lifecycle.confirm(Outcome())
