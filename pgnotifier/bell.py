"""A bell: what one thread sleeps by, and any other thread wakes it with."""

import contextlib
import threading


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
        """Wait until it is rung, so many seconds at most; by the owner of the lock.

        The lock is free meanwhile. As the ring may be an old one, look again at what is waited for.
        """
        self.is_waited_for = True
        self.lock.release()
        try:
            if timeout is None:
                self._unrung.acquire()
            else:
                self._unrung.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))
        finally:
            self.lock.acquire()
            self.is_waited_for = False
