"""Python scripts that run as separate processes, as if a user ran them from a terminal."""

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
"""Whether this Python refuses to start threads and to fork once the main program has ended."""
FLAGS = ("-u", "-X", "faulthandler", "-W", "error::ResourceWarning")


def ends_within_a_second(start):
    """Return whether Ctrl-C ends a script within a second in at least one of five tries.

    On a busy machine, any one of them may take longer.

    Args:
        start: Starts a script and returns it; it is called for each try.
    """
    for _ in range(5):
        script = start()
        assert script.interrupt() == 0
        assert "Traceback" not in script.err
        if script.took < 1:
            return True
    return False


class Script:
    """A running script, which finds its database's conninfo string in `sys.argv[1]`.

    One that traces its own lines isn't measured by coverage, which would trace them, too.
    """

    def __init__(self, directory, source, *args, flags=(), traces=False):
        self.took = None
        self._out, self._err = directory / "out", directory / "err"
        path = directory / "script.py"
        path.write_text(source)
        env = {k: v for k, v in os.environ.items() if not (traces and k.startswith("COVERAGE_"))}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *FLAGS, *flags, str(path), *args],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=env | {"PYTHONPATH": str(ROOT)},
                # A shell that starts us in the background makes us ignore SIGINT.
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
        """Wait until it has printed the text."""
        eventually(lambda: text in self.out or self._ended_without(text), timeout)

    def interrupt(self):
        """Interrupt it as Ctrl-C does, check that it ends soon, and return the exit code.

        `took` is set to the seconds that it took. First, the main thread has to be asleep: between
        the end of the main program and Python's first exit handler, an interrupt makes Python
        itself print a traceback.
        """
        eventually(self._rests)
        begun = time.monotonic()
        os.killpg(self.pid, signal.SIGINT)
        code = self.wait(15)
        self.took = time.monotonic() - begun
        assert self.took < 4, f"took {self.took:.2f} s"
        return code

    def wait(self, timeout=60):
        """Return the exit code; fail the test unless it ends within `timeout` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # makes it print each thread's stack
            self.process.wait(timeout)
            pytest.fail(f"has not ended within {timeout} s:\n{self.out}\n{self.err}")

    @property
    def runs(self):
        """Whether it is still running."""
        return self.process.poll() is None

    def close(self):
        """Kill it and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def _rests(self):
        """Return whether the main thread is asleep, and stays asleep for a moment."""

        def look():
            text = Path(f"/proc/{self.pid}/task/{self.pid}/status").read_text()
            return "State:\tS" in text and re.search(r"\nvoluntary_ctxt_switches.*", text).group()

        before = look()
        time.sleep(0.05)
        return before and look() == before

    def _ended_without(self, text):
        assert self.runs or text in self.out, f"ended: {self.out}\n{self.err}"
