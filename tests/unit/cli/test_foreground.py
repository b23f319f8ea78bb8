"""Signals of a process that listens: when a second one is another one."""

import os
import signal

import pytest

from pgnotifier.cli import foreground


class Exited(BaseException):
    """The process would have ended."""


@pytest.fixture
def clock(monkeypatch):
    """Return the time in a list, in a process that may be ended."""
    clock = [100.0]
    monkeypatch.setattr(foreground, "monotonic", lambda: clock[0])
    monkeypatch.setattr(foreground._SignalledError, "at", foreground._SignalledError.at)

    def leave(code):
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "write", lambda *_: None)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield clock
    for each, handler in before.items():
        signal.signal(each, handler)


def test_the_same_signal_twice(clock):
    """Sent to the process and to its group, it doesn't end the process amid the deliveries."""
    with pytest.raises(foreground._SignalledError):
        foreground._on_first_signal(signal.SIGTERM, None)
    clock[0] += foreground.SAME - 0.01
    foreground._on_second_signal(signal.SIGTERM, None)
    clock[0] += 0.01
    with pytest.raises(Exited):
        foreground._on_second_signal(signal.SIGTERM, None)


def test_a_signal_after_a_failure(clock):
    """No first one has come, so it ends the process at once."""
    with pytest.raises(Exited):
        foreground._on_second_signal(signal.SIGTERM, None)
