"""Waiting for a condition, for all tests."""

import inspect
import time


def eventually(condition, timeout=60.0):
    """Wait until the condition is true, and return its value.

    The default timeout is long because a thread may get no processor for many seconds on a busy
    machine.
    """
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        if waited > timeout:
            raise AssertionError(f"not within {timeout} s: {_show(condition)}")
        # Many conditions are queries: evaluating them too often would slow down what is waited for.
        time.sleep(min(max(waited / 10, 0.002), 0.05))
    return value


def _show(condition):
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):  # it isn't written in Python, or isn't in a file
        return repr(condition)
