"""A process in a terminal, for tests of commands."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading

import pyte


class Terminal:
    """A process in a terminal of 80 columns and 24 lines."""

    def __init__(self, *argv, **variables):
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        self.fd, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.settings = termios.tcgetattr(self.fd)
        env = {**os.environ, "TERM": "xterm-256color"}
        env.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            argv,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=env | variables,
            start_new_session=True,
        )
        os.close(inner)
        self.raw = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        fd = self.fd
        with contextlib.suppress(OSError):
            while data := os.read(fd, 4096):
                self.raw += data
                self._stream.feed(data)

    def type(self, text):
        """Press keys."""
        os.write(self.fd, text.encode())

    @property
    def text(self):
        """What it shows."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def hang_up(self):
        """Close the terminal, and leave the process alone."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def close(self):
        """Kill the process, and close the terminal."""
        self.process.kill()
        self.process.wait()
        self.hang_up()
