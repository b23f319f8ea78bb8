"""Programs that run while a test or an example does: workers, listeners, web servers."""

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
LOG_LINES = 20


class Command:
    """A program as a process of its own, for as long as the `with` block.

        with Command("rq worker", env={"RQ_REDIS_URL": url}, ready="Listening on"):
            ...

    It ends with this process whatever way that goes, and takes its children along.
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
        """Take what to run, in the `with` block.

        Args:
            argv: The command, whose program is looked for beside the running Python first; one
                called `python` is the running Python itself.
            env: Environment variables, in addition to ours without those of libpq.
            directory: Where to run it. Default: the current one.
            ready: What it writes once it is ready, to be waited for.
            timeout: Seconds in which it has to.
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
            ServerError: It couldn't be started, has ended, or takes too long; with the end of
                what it wrote.
        """
        program, *arguments = self._argv
        self._process = SupervisedProcess(steps=STEPS, unprivileged=False)
        try:
            # Some leave files in a temporary directory when they are killed: there, these go, too.
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

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._running.log()

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Wait until it has written something.

        Raises:
            ServerError: It has ended, or takes too long; with the end of what it wrote.
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
    """Return the path of a program, of this Python's environment first.

    Raises:
        ServerError: There is none.
    """
    if program == "python":
        return sys.executable
    beside = str(Path(sys.executable).parent)
    found = shutil.which(program, path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    if found is None:
        raise ServerError(f"there is no program {program!r} on the PATH")
    return found
