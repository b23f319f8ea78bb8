"""Waiting for a condition, and for the threads of a notifier."""

import threading

from waiting import eventually

__all__ = ["eventually", "our_threads"]


def our_threads():
    """Return the names of pgnotifier's threads that are alive."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("pgnotifier"))
