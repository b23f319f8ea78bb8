"""Hooks: the user's callables, called in order on a thread of their own."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier._runtime.process import renew_in_children
from pgnotifier._runtime.sync import Gate

logger = logging.getLogger("pgnotifier.hook")


MOST = 100
"""How many values may wait; with one more, the latest two become one."""


@dataclass(slots=True)
class _Call:
    value: Any
    then: list[Callable[[], object]]
    done: Gate


class Hook:
    """Calls a function once for each value, one after the other.

    The reader must go on reading even while a hook takes a minute. The thread ends when there is
    no value left.

    Attributes:
        lock: Guards what waits.
    """

    def __init__(
        self,
        name: str,
        fn: Callable[[Any], object] | None,
        merge: Callable[[Any, Any], Any] = lambda _, later: later,
    ) -> None:
        """Take the function to call.

        Args:
            name: Its name in the log.
            fn: The function; None to call nothing.
            merge: Makes one value of two if too many wait. Default: the later one.
        """
        self._name = name
        self._fn = fn
        self._merge = merge
        self._warn_no_thread = LogThrottle(logger)
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Forget what waits, as in a forked child: that is left to the parent."""
        self.lock = threading.RLock()
        self._waiting: deque[_Call] = deque()
        self._thread: threading.Thread | None = None
        self._last = Gate()
        self._last.open()

    def call(self, value: Any, then: Callable[[], object] | None = None) -> None:
        """Have it called, at some time after this returns.

        Args:
            value: The argument.
            then: Called once it was, or at once if there is no function.
        """
        afterwards = [] if then is None else [then]
        if self._fn is None:
            for one in afterwards:
                one()
            return
        with self.lock:
            if len(self._waiting) < MOST:
                self._last = Gate()
                self._waiting.append(_Call(value, afterwards, self._last))
            else:  # it hangs, and whatever makes the values goes on
                last = self._waiting[-1]
                last.value = self._merge(last.value, value)
                last.then += (one for one in afterwards if one not in last.then)
        self.resume()

    def resume(self) -> None:
        """Start the thread if something waits for one. Call it again for as long as something does.

        Not in the caller's thread: the reader must go on reading.
        """
        if self._thread is not None or not self._waiting:
            return
        # Made before it is known to be needed: making it may run a finalizer, which gets here, too.
        thread = threading.Thread(target=self._run, name=f"pgnotifier-{self._name}", daemon=True)
        with self.lock:
            if self._thread is not None or not self._waiting:
                return
            self._thread = thread
        try:
            thread.start()
        except RuntimeError as exc:
            if "interpreter shutdown" in str(exc):
                # Python 3.12.0 and 3.12.1 start no threads once the main program has ended.
                self._run()
                return
            with self.lock:
                self._thread = None
            self._warn_no_thread(
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
    def is_full(self) -> bool:
        """Whether one more value would be merged with the latest that waits."""
        return len(self._waiting) >= MOST

    @property
    def is_busy(self) -> bool:
        """Whether it is being called, or about to be."""
        return self._thread is not None or bool(self._waiting)

    def settle(self, timeout: float) -> None:
        """Wait until it was called with everything, for at most `timeout` seconds.

        Called by the hook itself, it doesn't wait.
        """
        if self._thread is not threading.current_thread():
            self._last.wait(timeout)

    def _run(self) -> None:
        while True:
            with self.lock:
                if not self._waiting:
                    self._thread = None
                    return
                call = self._waiting.popleft()
            try:
                assert self._fn is not None
                self._fn(call.value)
            except BaseException:
                extra = about("hook_failed", hook=self._name)
                logger.exception("%s itself failed", self._name, extra=extra)
            for then in call.then:
                then()
            call.done.open()
