"""Processes: staying alive while a notifier runs, ending on Ctrl-C, and forking."""

import atexit
import contextlib
import os
import sys
import threading
import weakref
from time import monotonic
from typing import Protocol

from pgnotifier._runtime import forking  # noqa: F401 - registered before us, it goes first

# To have them registered before us: see the end of this file.
with contextlib.suppress(ImportError):  # not every platform has processes, or threads
    import concurrent.futures.process
    import concurrent.futures.thread  # noqa: F401


class Runner(Protocol):
    """What the process has to know of a notifier."""

    daemon: bool

    def stop(self, timeout: float) -> object: ...
    def wait(self, timeout: float) -> bool: ...
    def forget_in_child(self) -> None: ...


EXIT_TIMEOUT = 0.7
"""Seconds for delivering what is left when the process ends; Ctrl-C is to take under one."""

_notifiers: "weakref.WeakSet[Runner]" = weakref.WeakSet()
_running: "set[Runner]" = set()  # strong: a script need not keep its notifier in a variable
_finishing: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


def watch(notifier: Runner) -> None:
    """Have a notifier told of forks."""
    _notifiers.add(notifier)


def hold(notifier: Runner) -> None:
    """Keep the process alive for a notifier that was started, unless it is a daemon."""
    _running.add(notifier)


def release(notifier: Runner) -> None:
    """No longer keep the process alive for it."""
    _running.discard(notifier)


def see_out(thread: threading.Thread) -> None:
    """Keep the process alive until a callback that has stopped its notifier is done."""
    _finishing.add(thread)


def _at_exit() -> None:
    """Wait until every notifier has stopped, or for Ctrl-C; then stop the rest.

    Our threads are daemons, and this waits in their place: Python itself, waiting for a
    thread, would answer Ctrl-C with a traceback and then not end.
    """
    try:
        # A main program that died of an exception, Ctrl-C included, has its process end.
        while not hasattr(sys, "last_value") and _wait_a_while():
            pass
    except KeyboardInterrupt:
        pass
    try:
        deadline = monotonic() + EXIT_TIMEOUT
        running = tuple(_running)
        for done, notifier in enumerate(running):
            # A callback that is stuck leaves the others their share of the time.
            notifier.stop(timeout=max(0.0, deadline - monotonic()) / (len(running) - done))
    except KeyboardInterrupt:
        pass


def _wait_a_while() -> bool:
    """Wait for something that keeps the process alive; return whether there is anything.

    A second at most, as a lock can't be interrupted on Windows.
    """
    for notifier in tuple(_running):
        if not notifier.daemon and not notifier.wait(0):
            notifier.wait(1.0)
            return True
    for thread in tuple(_finishing):
        if thread.is_alive():
            thread.join(1.0)
            return True
    return False


def _in_child() -> None:
    _running.clear()
    _finishing.clear()
    for notifier in tuple(_notifiers):
        notifier.forget_in_child()


# Where concurrent.futures ends its pools, too, and the later registered goes first: so the
# executors that callbacks use outlive this wait. atexit alone would come after that.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
