"""Hooks: they are called in order on a thread of their own, never by the caller's thread."""

import logging
import threading

import pytest

from pgnotifier._runtime.hooks import Hook


@pytest.fixture
def refuse(monkeypatch):
    """Return an Event; while it is set, no thread can be started."""
    start, refused = threading.Thread.start, threading.Event()

    def refusing(self):
        if refused.is_set():
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    return refused


@pytest.mark.slow
def test_order(eventually):
    """Calls are made in order, each followed by its own follow-up."""
    calls = []
    hook = Hook("on_gap", calls.append)
    for number in range(100):
        hook.call(number, lambda number=number: calls.append(-number))
    hook.settle(20)
    eventually(lambda: not hook.is_busy)
    assert calls == [one for number in range(100) for one in (number, -number)]


def test_without_a_thread(refuse, eventually, caplog):
    """Without a thread, calls wait until one can be started, and one warning is logged."""
    calls = []
    hook = Hook("on_gap", lambda number: calls.append((number, threading.current_thread())))
    assert not hook.is_stuck
    refuse.set()
    hook.call(1)
    hook.call(2)
    hook.resume()
    assert calls == []
    assert hook.is_busy
    assert hook.is_stuck
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage().startswith("on_gap can't be called") for record in warned] == [True]
    refuse.clear()
    hook.resume()
    hook.settle(20)
    eventually(lambda: not hook.is_busy)
    assert [number for number, _ in calls] == [1, 2]
    assert threading.current_thread() not in [thread for _, thread in calls]
    assert not hook.is_stuck
