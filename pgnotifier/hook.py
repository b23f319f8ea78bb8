"""Hooks: callables of the user's, called in order on a thread of their own."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pgnotifier.gate import Gate

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
            if self._thread is not None:
                return
            name = f"pgnotifier-{self._name}"
            thread = self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # none to be had: better late than never
            self._run()

    @property
    def is_busy(self) -> bool:
        """Whether it is being called, or about to be."""
        return self._thread is not None

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
                logger.exception("%s itself failed", self._name)
            then()
            done.open()
