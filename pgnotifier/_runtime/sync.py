"""Synchronization: gates, outcomes, bells, and locks that a forked child finds free."""

import contextlib
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.process import renew_in_children

logger = logging.getLogger("pgnotifier.locks")


class Gate:
    """Opens once; from then on, nobody waits for it."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[threading.Lock] = []

    def open(self) -> None:
        """Let all threads that wait go on; a no-op if it is open."""
        self.is_open = True
        for waiter in self._waiting.copy():
            with contextlib.suppress(RuntimeError):  # another thread has opened at the same time
                waiter.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open, for at most `timeout` seconds; return whether it is."""
        if self.is_open:
            return True
        waiter = threading.Lock()
        waiter.acquire()
        self._waiting.append(waiter)
        try:
            # Looked at again, as `open` may just have missed this waiter.
            if not self.is_open:
                _acquire(waiter, timeout)
        finally:
            self._waiting.remove(waiter)
        return self.is_open


class Outcome(Gate):
    """The outcome of something that another thread does, once it is done."""

    def __init__(self) -> None:
        super().__init__()
        self._exc: BaseException | None = None

    def settle(self, exc: BaseException | None = None) -> None:
        """Note that it is done, or why it failed. To be called once."""
        self._exc = exc
        self.open()

    def result(self) -> None:
        """Wait until it is done, and raise what made it fail, if anything did."""
        self.wait()
        if self._exc is not None:
            raise self._exc


class Bell:
    """A lock, and a wait that ends when the bell is rung: a Condition for one thread that waits.

    `threading.Condition` makes a lock for each wait, and costs several times as much. A ring that
    nobody waits for ends the next wait, so that none is ever lost.

    Attributes:
        lock: Guards what the waiting thread and others share.
        is_waited_for: Whether the thread waits.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.is_waited_for = False
        self._unrung = threading.Lock()
        self._unrung.acquire()

    def ring(self) -> None:
        """End the wait under way, or else the next one."""
        if self._unrung.locked():
            with contextlib.suppress(RuntimeError):  # another thread has just rung
                self._unrung.release()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is rung, for at most `timeout` seconds; the caller holds the lock.

        The lock is free meanwhile. The ring may be an old one, so check again what is waited for.
        """
        self.is_waited_for = True
        self.lock.release()
        try:
            _acquire(self._unrung, timeout)
        finally:
            self.lock.acquire()
            self.is_waited_for = False


def _acquire(lock: threading.Lock, timeout: float | None) -> None:
    """Acquire a lock, waiting for at most `timeout` seconds; without a limit if None."""
    lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))


class ForkSafeLock:
    """A lock for `with`, for a few steps, each of which leaves what it guards in a valid state.

    Don't hold it while calling other people's code. That may fork, or wait for another lock that
    is held by a thread that waits for this one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_in_children(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Become free, in a forked child."""
        self._lock = threading.RLock()


class ChangeLock:
    """A lock for changes of several steps, so that no other change comes between them.

    A change that a thread makes in the middle of another one of its own, from a signal handler or a
    finalizer, say, is put off until that one is done.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holder: int | None = None
        self._put_off: deque[Callable[[], object]] = deque()  # of the holder
        self._local = threading.local()

    def __enter__(self) -> None:
        self._lock.acquire()
        # Code that interrupts us before this line makes its change first.
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._holder = None  # from here on, code that interrupts us makes its change at once
        put_off, self._put_off = self._put_off, deque()
        self._lock.release()
        if put_off:
            self._catch_up(put_off)

    def puts_off(self, change: Callable[[], object]) -> bool:
        """Return whether the calling thread is in the middle of a change; if so, put this one off.

        It is made once the lock is free. If it fails then, that is logged.
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


P = ParamSpec("P")
R = TypeVar("R")


def may_be_put_off(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], R | None]:
    """Have calls of a method put off while their thread is in the middle of another change.

    The method's object has a `ChangeLock` as its `lock`. A call that is put off returns None.
    """

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        later = getattr(self, method.__name__)  # which a subclass may have extended
        if self.lock.puts_off(functools.partial(later, *args, **kwargs)):
            return None
        return method(self, *args, **kwargs)

    return call


def is_held_here(lock: "threading.RLock") -> bool:
    """Return whether the calling thread holds a reentrant lock."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001 - as Condition asks
