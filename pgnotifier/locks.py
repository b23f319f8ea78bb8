"""Locks: one that a forked child finds free, and one that a thread may come upon in itself.

A fork copies a lock as it is, and of the threads only the one that forks: what another thread
held at that moment, nobody would ever release in the child.
https://docs.python.org/3/library/os.html#os.fork

A signal handler, a finalizer or the garbage collector may run code of the user's between any two
steps of ours, on the same thread. If that code calls us, it must not wait for a lock that the
interrupted code holds. So our locks are reentrant, and what they guard is whole at each step; where
it can't be, there is a `ChangeLock`.
"""

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType

from pgnotifier.records import about

logger = logging.getLogger("pgnotifier.locks")

_locks: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()


class ForkSafeLock:
    """A lock for `with`, for a few steps that leave what it guards whole at each of them.

    Not to be held while calling code of others: that may want another lock, whose holder wants
    this one; or fork.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
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
        self._lock = threading.RLock()


class ChangeLock:
    """A lock for changes of several steps, none of which another change may come between.

    A change that a thread wants to make in the midst of another one of its own is put off until
    that one is done.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holder: int | None = None
        self._put_off: deque[Callable[[], object]] = deque()  # of the holder
        self._local = threading.local()

    def __enter__(self) -> None:
        self._lock.acquire()
        # Whatever interrupts us before this makes its change first.
        self._holder = threading.get_ident()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._holder = None  # from here on, whatever interrupts us makes its change at once
        put_off, self._put_off = self._put_off, deque()
        self._lock.release()
        if put_off:
            self._catch_up(put_off)

    def puts_off(self, change: Callable[[], object]) -> bool:
        """Return whether the calling thread is in the midst of a change; if so, put this one off.

        It is made once the lock is free. Should it fail then, that is logged.
        """
        if self._holder != threading.get_ident():
            return False
        self._put_off.append(change)
        return True

    @property
    def is_catching_up(self) -> bool:
        """Whether the calling code is a change that was put off, and which nobody waits for."""
        return hasattr(self._local, "waiting")

    def _catch_up(self, put_off: deque[Callable[[], object]]) -> None:
        if self.is_catching_up:  # each of them takes the lock, too
            self._local.waiting.extend(put_off)
            return
        self._local.waiting = put_off
        try:
            while put_off:
                try:
                    put_off.popleft()()
                except Exception:
                    logger.exception(
                        "a change that a signal handler or a finalizer asked for has failed",
                        extra=about("change_failed"),
                    )
        finally:
            del self._local.waiting


def is_held_here(lock: "threading.RLock") -> bool:
    """Return whether the calling thread holds a reentrant lock."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001 - as Condition asks


def _in_child() -> None:
    for lock in tuple(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
