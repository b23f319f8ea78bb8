"""Waiting for a condition, and for the threads of a notifier."""

import threading
import time

import pytest


def eventually(condition, timeout=15.0):
    """Return the first true value of `condition()`; fail when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s")
        time.sleep(0.005)
    return value


def our_threads():
    """Return the names of pgnotifier's threads that are alive."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("pgnotifier"))
