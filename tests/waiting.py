"""Waiting for a condition, as all tests do it."""

import inspect
import time


def eventually(condition, timeout=60.0):
    """Wait until the condition is true, and return what it returned.

    The default only says when to give up: on a busy machine, a thread may get no processor for
    many seconds.
    """
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        if waited > timeout:
            raise AssertionError(f"not within {timeout} s: {_show(condition)}")
        # Many a condition is a query: to look too often would slow down what is waited for.
        time.sleep(min(max(waited / 10, 0.002), 0.05))
    return value


def _show(condition):
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):  # it isn't written in Python, or in no file
        return repr(condition)
