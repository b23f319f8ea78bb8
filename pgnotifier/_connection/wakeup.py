"""Wait for a connection's socket, until it is ready or another thread ends the wait."""

import contextlib
import select
import selectors
import socket
from collections.abc import Callable

from pgnotifier.errors import ConnectionFailedError

_HUNG_UP = getattr(select, "POLLRDHUP", 0)  # Linux only; other systems always report POLLHUP


class Waiter:
    """Waits for one socket or a wake-up. Any thread may call `wake`; the rest is for its owner."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        """Open the descriptors.

        Args:
            before: Called just before each wait.

        Raises:
            ConnectionFailedError: The process has no descriptor left.
        """
        self._before = before
        try:
            self._open()
        except OSError as exc:
            raise ConnectionFailedError(f"can't listen: {exc.strerror or exc}") from exc
        self._watched: dict[int, int] = {}  # the events registered for each descriptor

    def _open(self) -> None:
        with contextlib.ExitStack() as opened:  # closes some if not all can be opened
            self._woken, self._waker = map(opened.enter_context, socket.socketpair())
            self._woken.setblocking(False)  # noqa: FBT003 - positional only
            self._waker.setblocking(False)  # noqa: FBT003
            self._selector = opened.enter_context(selectors.DefaultSelector())
            self._selector.register(self._woken, selectors.EVENT_READ)
            self._pause_selector = opened.enter_context(selectors.DefaultSelector())
            self._pause_selector.register(self._woken, selectors.EVENT_READ)
            opened.pop_all()

    def wake(self) -> None:
        """End the current wait, or the next one. A no-op once closed."""
        # If the pipe is full, the owner wakes up anyway.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def wait(
        self, timeout: float, fd: int | None = None, *, read: bool = True, write: bool = False
    ) -> bool:
        """Wait until the descriptor is ready, `wake` is called, or the seconds have passed.

        Returns:
            Whether `wake` was called.
        """
        if fd is not None:
            self._watch(fd, read * selectors.EVENT_READ | write * selectors.EVENT_WRITE)
        return self._select(self._selector, timeout)

    def wait_for_end(self, timeout: float, fd: int) -> bool:
        """Wait without reading; return whether the other end has closed the connection."""
        if not hasattr(select, "poll"):  # Windows
            self.wait(timeout, fd, read=False)
            return False
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(fd, _HUNG_UP)
        self._before()
        ready = dict(poll.poll(max(0.0, timeout) * 1000))
        if self._woken.fileno() in ready:
            self._take_wakes()
        return fd in ready

    def pause(self, seconds: float) -> None:
        """Wait until `wake` is called or the seconds have passed, and ignore the socket."""
        self._select(self._pause_selector, seconds)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor. Call this before it is closed."""
        self._watch(fd, 0)

    def unwatch(self) -> None:
        """Stop watching all descriptors. Call this before they are closed, or just afterwards."""
        for fd in [fd for fd, events in self._watched.items() if events]:
            self._watch(fd, 0)

    def close(self) -> None:
        """Close the descriptors."""
        self._selector.close()
        self._pause_selector.close()
        self._woken.close()
        self._waker.close()

    def _take_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _select(self, selector: selectors.BaseSelector, timeout: float) -> bool:
        self._before()
        is_woken = False
        for key, _ in selector.select(timeout):
            if key.fileobj is self._woken:
                self._take_wakes()
                is_woken = True
        return is_woken

    def _watch(self, fd: int, events: int) -> None:
        known = self._watched.get(fd, 0)
        if events == known:
            return
        if not known:
            self._selector.register(fd, events)
        elif not events:
            self._selector.unregister(fd)
        else:
            self._selector.modify(fd, events)
        self._watched[fd] = events
