"""Python scripts run as processes of their own, as a user runs them from a terminal."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .waiting import eventually

ROOT = Path(__file__).parents[2]
LATE_THREADS_ARE_REFUSED = (3, 12, 0) <= sys.version_info[:3] < (3, 12, 2)
"""Whether this Python starts no thread, and forks no more, once the main program has ended."""
FLAGS = ("-u", "-X", "faulthandler", "-W", "error::ResourceWarning")


def ends_within_a_second(start):
    """Return whether Ctrl-C does that, at its best: a busy machine makes anything late.

    Args:
        start: Returns a script that runs, each time that it is called.
    """
    for _ in range(5):
        script = start()
        assert script.interrupt() == 0
        assert "Traceback" not in script.err
        if script.took < 1:
            return True
    return False


class Script:
    """A script that runs, with its database's conninfo string in `sys.argv[1]`."""

    def __init__(self, directory, source, *args, flags=()):
        self.took = None
        self._out, self._err = directory / "out", directory / "err"
        path = directory / "script.py"
        path.write_text(source)
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *FLAGS, *flags, str(path), *args],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                # A shell that starts us in the background has us ignore it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def pid(self):
        """The process's id."""
        return self.process.pid

    @property
    def out(self):
        """What it has written to its standard output."""
        return self._out.read_text()

    @property
    def err(self):
        """What it has written to its standard error."""
        return self._err.read_text()

    def prints(self, text, timeout=60):
        """Wait until it has printed this."""
        eventually(lambda: text in self.out or self._ended_without(text), timeout)

    def interrupt(self):
        """Press Ctrl-C; return the exit code, which has to come soon, and note the seconds.

        Not before the main thread is at rest: in the moment between the end of the main program
        and the first of what Python runs at exit, Python itself prints a traceback.
        """
        eventually(self._rests)
        begun = time.monotonic()
        os.killpg(self.pid, signal.SIGINT)
        code = self.wait(15)
        self.took = time.monotonic() - begun
        assert self.took < 4, f"took {self.took:.2f} s"
        return code

    def wait(self, timeout=60):
        """Return the exit code, which has to come within the seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # has it print what each thread is at
            self.process.wait(timeout)
            pytest.fail(f"has not ended within {timeout} s:\n{self.out}\n{self.err}")

    @property
    def runs(self):
        """Whether it has not ended."""
        return self.process.poll() is None

    def close(self):
        """End it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def _rests(self):
        """Return whether the main thread sleeps, and goes on sleeping for a while."""

        def look():
            text = Path(f"/proc/{self.pid}/task/{self.pid}/status").read_text()
            return "State:\tS" in text and re.search(r"\nvoluntary_ctxt_switches.*", text).group()

        before = look()
        time.sleep(0.05)
        return before and look() == before

    def _ended_without(self, text):
        assert self.runs or text in self.out, f"ended: {self.out}\n{self.err}"
