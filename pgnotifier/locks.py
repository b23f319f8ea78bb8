"""Locks that a forked child finds free.

A fork copies a lock as it is, and of the threads only the one that forks: what another thread
held at that moment, nobody would ever release in the child.
https://docs.python.org/3/library/os.html#os.fork
"""

import os
import threading
import weakref
from types import TracebackType

_locks: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()


class ForkSafeLock:
    """A lock for `with`, for a few steps that leave what it guards whole at each of them.

    Not to be held while calling code of others: that may want another lock, whose holder wants
    this one; or fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Be free, in a forked child."""
        self._lock = threading.Lock()


def _in_child() -> None:
    for lock in tuple(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
