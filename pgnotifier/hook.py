"""Hooks: callables of the user's, called in order on a thread of their own."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pgnotifier.gate import Gate
from pgnotifier.records import about
from pgnotifier.recurring import Recurring

logger = logging.getLogger("pgnotifier.hook")


def _do_nothing() -> None:
    pass


class Hook:
    """Calls a function once for each value, one after the other.

    The reader must go on reading while a hook does whatever takes it a minute. The thread ends
    when there is nothing left to call it with.
    """

    def __init__(self, name: str, fn: Callable[[Any], object] | None) -> None:
        """Take what to call.

        Args:
            name: What users know it as.
            fn: The function; None for nothing.
        """
        self._name = name
        self._fn = fn
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Any, Callable[[], object], Gate]] = deque()
        self._thread: threading.Thread | None = None
        self._warn = Recurring(logger)
        self._last = Gate()
        self._last.open()

    def call(self, value: Any, then: Callable[[], object] = _do_nothing) -> None:
        """Have it called, some time after this returns.

        Args:
            value: What with.
            then: Called once it was, or at once if there is no function.
        """
        if self._fn is None:
            then()
            return
        with self._lock:
            self._last = Gate()
            self._waiting.append((value, then, self._last))
        self.resume()

    def resume(self) -> None:
        """Start the thread, if something waits for one; to be called again for as long as it does.

        Not in the caller's thread: the reader must go on reading.
        """
        with self._lock:
            if self._thread is not None or not self._waiting:
                return
            name = f"pgnotifier-{self._name}"
            thread = self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            if "interpreter shutdown" in str(exc):
                # Python 3.12.0/1 start none once the main program has ended, and never will.
                self._run()
                return
            with self._lock:
                self._thread = None
            self._warn(
                "%s can't be called, as no thread can be started (%s); trying again",
                self._name,
                exc,
                extra=about("no_thread", hook=self._name),
            )

    @property
    def is_stuck(self) -> bool:
        """Whether something waits for a thread that couldn't be started."""
        return self._thread is None and bool(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether it is being called, or about to be."""
        return self._thread is not None or bool(self._waiting)

    def settle(self, timeout: float) -> None:
        """Wait until it was called with everything, for so many seconds at most.

        Called by the hook itself, it doesn't wait.
        """
        if self._thread is not threading.current_thread():
            self._last.wait(timeout)

    def forget_in_child(self) -> None:
        """Leave what is waiting to the parent, in a forked child."""
        self._lock = threading.Lock()
        self._waiting.clear()
        self._thread = None
        self._last = Gate()
        self._last.open()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                value, then, done = self._waiting.popleft()
            try:
                assert self._fn is not None
                self._fn(value)
            except BaseException:
                extra = about("hook_failed", hook=self._name)
                logger.exception("%s itself failed", self._name, extra=extra)
            then()
            done.open()
