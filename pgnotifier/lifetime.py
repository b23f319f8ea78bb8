"""Processes: staying alive while a notifier runs, ending on Ctrl-C, and forking."""

import atexit
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier

EXIT_TIMEOUT = 0.7
"""Seconds for delivering what is left when the process ends; Ctrl-C is to take under one."""

_notifiers: "weakref.WeakSet[Notifier]" = weakref.WeakSet()
_running: "set[Notifier]" = set()  # strong: a script need not keep its notifier in a variable


def watch(notifier: "Notifier") -> None:
    """Have a notifier told of forks."""
    _notifiers.add(notifier)


def hold(notifier: "Notifier") -> None:
    """Keep the process alive for a notifier that was started, unless it is a daemon."""
    _running.add(notifier)


def release(notifier: "Notifier") -> None:
    """No longer keep the process alive for it."""
    _running.discard(notifier)


def _at_exit() -> None:
    """Wait until every notifier has stopped, or for Ctrl-C; then stop the rest.

    Our threads are daemons, and this waits in their place: Python itself, waiting for a
    thread, would answer Ctrl-C with a traceback and then not end.
    """
    try:
        # A main program that died of an exception, Ctrl-C included, has its process end.
        while not hasattr(sys, "last_value"):
            waiting = [n for n in tuple(_running) if n.is_running() and not n.daemon]
            if not waiting:
                break
            waiting[0].wait(1.0)  # in slices, as a lock can't be interrupted on Windows
    except KeyboardInterrupt:
        pass
    try:
        for notifier in tuple(_running):
            notifier.stop(timeout=EXIT_TIMEOUT)
    except KeyboardInterrupt:
        pass


def _in_child() -> None:
    _running.clear()
    for notifier in tuple(_notifiers):
        notifier._forget_in_child()  # noqa: SLF001 - not for users, but no other module's either


# Where concurrent.futures ends its pools, too, and the later registered goes first: so the
# executors that callbacks use outlive this wait. atexit alone would come after that.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
