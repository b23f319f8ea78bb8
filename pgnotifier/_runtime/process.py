"""The process: it stays alive while a notifier runs, ends on Ctrl-C, and may be forked."""

import atexit
import contextlib
import itertools
import os
import sys
import threading
import weakref
from time import monotonic
from typing import Protocol

# So that they are registered before this module: see the end of this file.
with contextlib.suppress(ImportError):  # some platforms have no processes, or no threads
    import concurrent.futures.process
    import concurrent.futures.thread  # noqa: F401


class Renewable(Protocol):
    """An object with locks or threads, which a forked child has to make again."""

    def renew(self) -> None:
        """Start afresh, in a forked child. A thread that doesn't exist there may hold any lock."""


_known: "weakref.WeakValueDictionary[int, Renewable]" = weakref.WeakValueDictionary()
_numbers = itertools.count()


def renew_in_children(one: Renewable) -> None:
    """Have something renewed in each child that is forked for as long as it exists.

    What was registered first is renewed first.
    """
    _known[next(_numbers)] = one


class Runner(Protocol):
    """What this module has to know about a notifier."""

    daemon: bool

    def stop(self, timeout: float) -> object: ...
    def wait(self, timeout: float) -> bool: ...


EXIT_TIMEOUT = 0.5
"""Seconds for delivering the rest when the process ends: Ctrl-C takes less than a second."""

running: "set[Runner]" = set()
"""Those that keep the process alive, unless they are daemons. A script may not keep its notifier in
a variable."""
finishing: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()
"""Threads that keep the process alive until they end: their callback has stopped its notifier."""


def _at_exit() -> None:
    """Wait until every notifier has stopped, or for Ctrl-C; then stop the rest.

    The threads of a notifier are daemon threads, so Python doesn't wait for them. If it did,
    Ctrl-C would print a traceback and not end the process.
    """
    try:
        # An exception that ended the main program, Ctrl-C included, ends the process as well.
        while not hasattr(sys, "last_value") and _wait_a_while():
            pass
    except KeyboardInterrupt:
        pass
    try:
        deadline = monotonic() + EXIT_TIMEOUT
        left = tuple(running)
        for done, notifier in enumerate(left):
            # Each gets its share of the time, so that a stuck callback leaves some for the others.
            notifier.stop(timeout=max(0.0, deadline - monotonic()) / (len(left) - done))
    except KeyboardInterrupt:
        pass


def _wait_a_while() -> bool:
    """Wait for something that keeps the process alive; return False if there is nothing.

    It waits for a second at most, as Ctrl-C can't interrupt a lock on Windows.
    """
    for notifier in tuple(running):
        if not notifier.daemon and not notifier.wait(0):
            notifier.wait(1.0)
            return True
    for thread in tuple(finishing):
        if thread.is_alive():
            thread.join(1.0)
            return True
    return False


def _in_child() -> None:
    for one in tuple(_known.values()):
        one.renew()
    running.clear()
    finishing.clear()


# concurrent.futures ends its executors in the same way, and the latest registered function is
# called first. So the executors that callbacks use work during this wait. Functions registered
# with atexit are called after that.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
