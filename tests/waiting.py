"""Waiting for a condition, as all tests do it."""

import inspect
import time


def eventually(condition, timeout=60.0):
    """Wait until the condition is true, and return what it returned.

    The default only says when to give up: on a busy machine, a thread may get no processor for
    many seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {_show(condition)}")
        time.sleep(0.003)
    return value


def _show(condition):
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):  # it isn't written in Python, or in no file
        return repr(condition)
