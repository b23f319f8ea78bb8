"""Waiting for another thread in a way that an interrupt can't harm.

An Event or a Future takes a lock for a moment as a wait begins and ends. Should Ctrl-C raise
KeyboardInterrupt in the main thread just then, that lock stays taken, and whoever sets the Event
next hangs: https://github.com/python/cpython/issues/148874. Here nobody shares a lock.
"""

import contextlib
import threading


class Gate:
    """Opens once, and from then on lets everyone through."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: list[threading.Lock] = []

    def open(self) -> None:
        """Let through all who wait; a no-op if it is open."""
        self.is_open = True
        for waiter in self._waiting.copy():
            with contextlib.suppress(RuntimeError):  # another thread has opened at the same time
                waiter.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open, for so many seconds at most; return whether it is."""
        if self.is_open:
            return True
        waiter = threading.Lock()
        waiter.acquire()
        self._waiting.append(waiter)
        try:
            # Looked at again, as `open` may just have missed this waiter.
            if not self.is_open:
                waiter.acquire(timeout=-1 if timeout is None else min(max(0, timeout), _FOREVER))
        finally:
            self._waiting.remove(waiter)
        return self.is_open


class Outcome(Gate):
    """How something that another thread does went, once it is done."""

    def __init__(self) -> None:
        super().__init__()
        self._exc: BaseException | None = None

    def settle(self, exc: BaseException | None = None) -> None:
        """Tell that it is done, or why it failed; to be called once."""
        self._exc = exc
        self.open()

    def result(self) -> None:
        """Wait until it is done, and raise what made it fail, if anything did."""
        self.wait()
        if self._exc is not None:
            raise self._exc


_FOREVER = threading.TIMEOUT_MAX
