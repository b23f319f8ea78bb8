"""Gates and outcomes: an interrupt during a wait does no harm."""

import functools
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgnotifier._runtime.sync import Gate, Outcome


def interrupted_at(moment, call):
    """Run a call with Ctrl-C at the n-th event of its trace; return whether it came that far."""
    events = itertools.count()

    def trace(frame, event, argument):
        if next(events) == moment:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def opens(gate):
    """Return whether the gate can be opened, by a thread because that might hang."""
    thread = threading.Thread(target=gate.open, daemon=True)
    thread.start()
    thread.join(60)
    return not thread.is_alive()


def test_wait():
    """A gate is closed until it is opened, which lets everyone through for good."""
    gate = Gate()
    assert not gate.is_open
    assert not gate.wait(0)
    assert not gate.wait(-1)
    assert not gate.wait(0.01)
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(gate.wait, timeout) for timeout in [None, 60, 1e300] * 2]
        gate.open()
        assert all(wait.result(60) for wait in waits)
    gate.open()
    assert gate.is_open
    assert gate.wait()


def test_opened_by_many_at_once():
    """With many waiters and openers at once, none hangs or fails."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(500):
            gate = Gate()
            waits = [pool.submit(gate.wait) for _ in range(3)]
            for opened in [pool.submit(gate.open) for _ in range(3)]:
                opened.result(60)
            assert all(wait.result(60) for wait in waits)


def test_interrupted_anywhere():
    """If a wait is interrupted at any moment, others can still open and pass the gate."""
    for moment in itertools.count():
        gate = Gate()
        interrupted = interrupted_at(moment, functools.partial(gate.wait, 0.001))
        assert opens(gate)
        assert gate.wait(0)
        if not interrupted:
            break
    assert moment > 5


def test_outcome():
    """An outcome succeeds or raises its exception each time its result is asked for."""
    outcome = Outcome()
    assert not outcome.wait(0)
    outcome.settle()
    outcome.result()
    outcome.result()
    failed = Outcome()
    failed.settle(LookupError("gone"))
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            failed.result()


def test_outcome_of_another_thread():
    """`result()` waits until the outcome is settled."""
    outcome = Outcome()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(outcome.result)
        assert not waiting.done()
        outcome.settle()
        assert waiting.result(60) is None
