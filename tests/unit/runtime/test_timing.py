"""Timing publications."""

import logging

import pytest

from pgnotifier._runtime import timing
from pgnotifier._runtime.timing import forget, observe, timed


@pytest.fixture
def observed():
    """Return the list of what was measured."""
    found = []

    def observer(kind, seconds):
        found.append((kind, seconds))

    observe(observer)
    yield found
    forget(observer)


def test_nobody_asks(monkeypatch):
    """Without an observer, nothing is measured: it is the same object each time."""
    monkeypatch.setattr(timing, "_observers", ())  # other tests of this process may have left some
    assert timed("notify") is timed("durable")


def test_a_publication_is_measured(observed):
    """The observer gets the kind and the seconds."""
    with timed("durable"):
        pass
    ((kind, seconds),) = observed
    assert kind == "durable"
    assert 0 <= seconds < 60


def test_a_failure_is_not_measured(observed):
    """A publication that fails has no duration, and its error goes on."""
    with pytest.raises(ZeroDivisionError), timed("notify"):
        raise ZeroDivisionError
    assert observed == []


def test_an_observer_that_raises(observed, caplog):
    """What was published stays published: the error is only logged, and others are called."""

    def broken(*_):
        raise OSError("the disk is full")

    caplog.set_level(logging.DEBUG, "pgnotifier")
    observe(broken)
    try:
        with timed("notify"):
            pass
    finally:
        forget(broken)
    assert len(observed) == 1
    (record,) = caplog.records
    assert (record.levelno, record.pgnotifier_event) == (logging.DEBUG, "unmeasured")
