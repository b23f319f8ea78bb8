"""Run a program during a test or an example: a worker, a listener or a web server."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from types import TracebackType
from typing import Self

from pgnotifier.testing.errors import ServerError
from pgnotifier.testing.process import Steps, SupervisedProcess

STEPS: Steps = ((SIGTERM, 10.0), (SIGKILL, 5.0))
KILL_STEPS: Steps = ((SIGKILL, 5.0),)
LOG_LINES = 20


class Command:
    """A program that runs in a child process during the `with` block.

        with Command("rq worker", env={"RQ_REDIS_URL": url}, ready="Listening on"):
            ...

    It and its children end when this process ends, whatever the reason is.
    """

    def __init__(
        self,
        argv: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        directory: Path | str | None = None,
        ready: str = "",
        timeout: float = 60.0,
    ) -> None:
        """Describe the program; the `with` block runs it.

        Args:
            argv: The command. Its program is searched for in the directory of the running Python
                first; `python` is the running Python itself.
            env: Environment variables, in addition to this process's without those of libpq.
            directory: The working directory. Default: the current one.
            ready: A text that the program writes when it is ready. The `with` block waits for it.
            timeout: Seconds to wait for that text.
        """
        self._argv = shlex.split(argv) if isinstance(argv, str) else [*argv]
        self._env = {"PYTHONUNBUFFERED": "1", **(env or {})}
        self._directory = Path.cwd() if directory is None else Path(directory).absolute()
        self._ready = ready
        self._timeout = timeout
        self._process: SupervisedProcess | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready.

        Raises:
            ServerError: It couldn't be started, has ended, or takes too long. The message ends
                with the last lines that it wrote.
        """
        program, *arguments = self._argv
        self._process = SupervisedProcess(steps=STEPS, unprivileged=False)
        try:
            # Some programs leave temporary files when they are killed. These are then deleted
            # with this directory.
            env = {"TMPDIR": str(self._process.directory), **self._env}
            self._process.spawn([_find(program), *arguments], env, self._directory)
            self.wait_for(self._ready, self._timeout)
        except BaseException:
            self._process.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it with SIGTERM, or with SIGKILL if it takes over 10 s."""
        self._running.close()

    def kill(self) -> None:
        """Send it SIGKILL, as the out-of-memory killer would, and wait for its end."""
        self._running.stop(KILL_STEPS)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._running.log()

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Wait until it has written something.

        Raises:
            ServerError: It has ended, or takes too long. The message ends with the last lines
                that it wrote.
        """
        deadline = time.monotonic() + timeout
        while text not in self.log:
            ended = self._running.pid is None
            if ended and text in self.log:  # it has just written it
                return
            if ended or time.monotonic() > deadline:
                why = "has ended" if ended else f"hasn't within {timeout:g} s"
                last = "\n".join(self.log.splitlines()[-LOG_LINES:])
                raise ServerError(
                    f"{shlex.join(self._argv)} {why}, without writing {text!r}. It wrote:\n{last}"
                )
            time.sleep(0.05)

    @property
    def _running(self) -> SupervisedProcess:
        if self._process is None:
            raise ServerError(f"{shlex.join(self._argv)} isn't running; use it in a `with` block")
        return self._process


def _find(program: str) -> str:
    """Return the path of a program; search this Python's environment first.

    Raises:
        ServerError: There is no such program.
    """
    if program == "python":
        return sys.executable
    beside = str(Path(sys.executable).parent)
    found = shutil.which(program, path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    if found is None:
        raise ServerError(f"there is no program {program!r} on the PATH; install it first")
    return found
