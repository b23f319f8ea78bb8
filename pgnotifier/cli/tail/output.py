"""Write to a standard output that may be slow, stopped by Ctrl-S, or closed by its reader."""

import os
import select
from time import monotonic
from typing import TextIO

CHUNK = 4096
"""Bytes that a pipe takes at once if it takes any: PIPE_BUF of Linux."""


class OutputClosedError(Exception):
    """Nobody reads the output any more."""


class Output:
    """Writes to a stream without a buffer, so that nothing is left to write at the end.

    Otherwise, Python would wait for a stopped terminal when the process ends.
    """

    def __init__(self, stream: TextIO) -> None:
        """Take a text stream."""
        self._stream = stream
        self.encoding = stream.encoding or "utf-8"
        try:
            self._fd = stream.fileno()
        except OSError:  # in a test, it isn't a file
            self._fd = -1

    def write(self, text: str, until: float = float("inf")) -> bool:
        """Write all of a text. Characters that the encoding lacks are written as escapes.

        Args:
            text: The text.
            until: When to give up, by `time.monotonic()`.

        Returns:
            Whether all is written. If not, a part may be.

        Raises:
            OutputClosedError: Nobody reads it.
        """
        data = memoryview(text.encode(self.encoding, "backslashreplace"))
        if self._fd < 0:
            self._stream.write(bytes(data).decode(self.encoding))
            return True
        while data:
            if not self._wait(min(until - monotonic(), 1.0)):
                if monotonic() >= until:
                    return False
                continue
            try:
                data = data[os.write(self._fd, data[:CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise OutputClosedError from None
        return True

    def check(self) -> None:
        """Check that somebody still reads it.

        Raises:
            OutputClosedError: Nobody does.
        """
        if self._fd >= 0 and hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._fd, 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                raise OutputClosedError

    def _wait(self, seconds: float) -> bool:
        """Wait until it takes something; return whether it does."""
        return bool(select.select([], [self._fd], [], max(0.0, seconds))[1])
