"""When a subscription is to be visited next: never at once, unless a visit would do something."""

import math
import time
from datetime import UTC, datetime
from time import monotonic

import pytest
from deliveries import Fake, bind

from pgnotifier._connection.encoding import find_encoding
from pgnotifier._delivery.portions import Row
from pgnotifier._durable.progress import Progress
from pgnotifier._durable.rows import Fetched, Window
from pgnotifier._runtime.backoff import Backoff

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Session:
    """A session on a log of so many entries, which another replica may advance."""

    encoding = find_encoding("UTF8")

    def __init__(self, count=0):
        self.count = count
        self.is_elsewhere = False
        self.looks_for_retries = 0
        self.retry_in = None

    def advance(self, *_, **__):
        """Read all entries at once."""
        if self.is_elsewhere:
            return None
        rows = [Row(number, AT, None, b"1") for number in range(1, self.count + 1)]
        window = Window("taken", 1, "1:1:", "2:2:", 0, is_now=True, id_hi=0, newest=0)
        return Fetched(window, rows, is_rest=True, is_held=True)

    def lock(self, _sub):
        """Hold the subscription."""
        return not self.is_elsewhere

    def unlock(self, _sub):
        """Let it go."""

    def take_missed(self, _sub):
        """Return that nothing was missed."""
        return []

    def seconds_to_retry(self, _sub):
        """Return in how many seconds something is to be retried, if anything is."""
        self.looks_for_retries += 1
        return self.retry_in

    def read_due(self, _sub, _limit):
        """Return nothing, as if another session had locked what is due."""
        return []

    def save(self, *_, **__):
        """Save a position, and return its number."""
        return 2


@pytest.fixture
def make():
    """Return a function that makes a progress with a number, and a list of what it hands over."""

    def make():
        handed = []
        progress = Progress(bind(Fake()), handed.extend, lambda: None, lambda *_: None)
        progress.become(7)
        return progress, handed

    return make


def visit(progress, session):
    """Visit it until that does nothing more."""
    for _ in range(5):
        if not progress.visit(session):
            return
    pytest.fail("each visit asks for another one at once")


def test_looks_for_retries(make):
    """It is due at once as long as nobody has looked for entries to retry, and later after that."""
    progress, _ = make()
    assert progress.due_at == -math.inf
    session = Session()
    visit(progress, session)
    assert session.looks_for_retries == 1
    assert progress.due_at > monotonic() + 1


def test_another_replica_has_it(make):
    """It waits before it looks again: what is to be retried can't be read meanwhile."""
    progress, _ = make()
    session = Session()
    session.is_elsewhere = True
    visit(progress, session)
    assert progress.is_resting
    assert monotonic() < progress.due_at < monotonic() + 1
    progress.try_again()
    session.is_elsewhere = False
    visit(progress, session)
    assert session.looks_for_retries == 1


def test_left_alone(make):
    """It waits while it is left to others."""
    progress, _ = make()
    progress.leave_alone()
    visit(progress, Session())
    assert monotonic() < progress.due_at < monotonic() + 1


def test_locked_by_another_session(make):
    """It waits before it looks again for what is due, but can't be read."""
    progress, _ = make()
    session = Session()
    session.retry_in = 0.0
    visit(progress, session)
    assert session.looks_for_retries == 1
    assert monotonic() < progress.due_at < monotonic() + 1


def test_another_log(make):
    """What is under way of a log that was replaced isn't saved, so there is nothing to wait for."""
    progress, handed = make()
    session = Session(3)
    visit(progress, session)
    assert len(handed) == 3
    assert monotonic() < progress.due_at < monotonic() + 2
    progress.begin_again()
    progress.become(8)
    visit(progress, session)
    assert progress.due_at > monotonic() + 2


def test_a_binding_that_was_replaced(make):
    """What is under way is saved now and then; nothing is retried for the binding before."""
    progress, _ = make()
    session = Session(3)
    session.retry_in = 0.01
    visit(progress, session)
    progress.wanted = bind(Fake())
    time.sleep(0.02)
    visit(progress, session)
    assert monotonic() < progress.due_at < monotonic() + 2


def test_cut_short_again_and_again(make, monkeypatch):
    """After a batch that was cut short, by muting say, it pauses briefly if some was delivered."""
    monkeypatch.setattr(Backoff, "FIRST", 0.001)
    progress, handed = make()
    for _ in range(12):
        visit(progress, Session(3))
        handed[0].receipt.settle_all([handed[0].id])
        handed.clear()  # the others are lost
        visit(progress, Session(3))
        assert not handed
        assert progress.due_at < monotonic() + 0.1
        time.sleep(0.002)
