"""Signals to a process that listens: when a second signal ends the process at once."""

import gc
import os
import signal
from types import SimpleNamespace

import pytest

from pgnotifier.cli import foreground


class Exited(BaseException):
    """Raised where the process would have ended."""


@pytest.fixture
def clock(monkeypatch):
    """Yield a list with the current time, which tests can change; `os._exit` raises `Exited`."""
    clock = [100.0]
    monkeypatch.setattr(foreground, "monotonic", lambda: clock[0])
    monkeypatch.setattr(foreground._SignalledError, "at", foreground._SignalledError.at)

    def leave(code):
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "write", lambda *_: None)
    before = {each: signal.getsignal(each) for each in foreground._ENDING}
    yield clock
    for each, handler in before.items():
        signal.signal(each, handler)


def test_the_same_signal_twice(clock):
    """A signal that is repeated within `SAME` seconds doesn't end the process; a later one does."""
    with pytest.raises(foreground._SignalledError):
        foreground._on_first_signal(signal.SIGTERM, None)
    clock[0] += foreground.SAME - 0.01
    foreground._on_second_signal(signal.SIGTERM, None)
    clock[0] += 0.01
    with pytest.raises(Exited):
        foreground._on_second_signal(signal.SIGTERM, None)


def test_a_signal_after_a_failure(clock):
    """After a failure, even the first signal ends the process at once."""
    with pytest.raises(Exited):
        foreground._on_second_signal(signal.SIGTERM, None)


def test_a_second_signal_without_stderr(clock, monkeypatch):
    """A second signal ends the process also if it can't write that it does."""

    def fail(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(Exited):
        foreground._on_second_signal(signal.SIGTERM, None)


def test_a_hangup_that_is_ignored(clock):
    """SIGHUP is handled as well, but stays ignored if it is, as under `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    foreground._handle_signals(foreground._on_first_signal)
    assert signal.getsignal(signal.SIGHUP) is foreground._on_first_signal
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    foreground._handle_signals(foreground._on_first_signal)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_what_is_there_is_not_garbage(clock):
    """Full collections leave out what was there before it listens, as that takes them long."""
    gc.unfreeze()  # what conftest.py has left out
    counts = []

    def wait(_):
        counts.append(gc.get_freeze_count())
        os.kill(os.getpid(), signal.SIGTERM)

    notifier = SimpleNamespace(
        startup_wait=False,
        is_starting=lambda: False,
        start=lambda: None,
        is_running=lambda: True,
        wait=wait,
        stop=lambda _: 0,
    )
    assert foreground.listen([notifier], 1.0, None, print) == 0
    assert counts[0] > len(gc.get_objects()) / 2
    assert gc.get_freeze_count() == 0
    gc.freeze()
