"""Run the Celery processes of the demo: two workers and the listener."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from signal import SIGKILL, SIGTERM

from pgnotifier.errors import PgNotifierError
from pgnotifier.testing.process import Steps, SupervisedProcess

STOP_STEPS: Steps = ((SIGTERM, 5.0), (SIGKILL, 5.0))
QUICK_STEPS: Steps = ((SIGTERM, 1.0), (SIGKILL, 5.0))
LOG_LINES = 20


class DemoError(PgNotifierError, RuntimeError):
    """The demo can't go on. The message ends with the log of the process that failed."""


class CeleryProcess:
    """A celery command that runs in a child process.

    A supervisor runs it, as it runs the servers. So the command and its prefork children end when
    this process ends, whatever the reason is.
    """

    def __init__(
        self, name: str, app: str, arguments: Sequence[str], env: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            name: Its name in the demo.
            app: The module of the Celery app.
            arguments: The subcommand of celery with its options.
            env: Environment variables, in addition to this process's.

        Raises:
            ServerError: It could not be started.
        """
        self.name = name
        # The kernel sends the signal of the first step if the supervisor is killed.
        self._process = SupervisedProcess(steps=QUICK_STEPS, unprivileged=False)
        command = [sys.executable, "-m", "celery", "-A", app, *arguments]
        # A pool that is killed leaves temporary directories. They are deleted with this directory.
        self._process.spawn(command, {**env, "TMPDIR": str(self._process.directory)})

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        return self._process.pid

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            DemoError: It has ended. The message ends with the end of its log.
        """
        if self.pid is None:
            raise DemoError(f"{self.name} has ended. {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of its log, with a heading."""
        return quote_log(self._process.log())

    def stop(self, *, quick: bool) -> None:
        """Let it finish its current tasks within 5 seconds, or 1 second if `quick`, and end it."""
        self._process.stop(QUICK_STEPS if quick else STOP_STEPS)

    def close(self) -> None:
        """End the process if it runs, and delete its log."""
        self._process.close()


def quote_log(log: str) -> str:
    """Return the last lines of a log, with a heading."""
    lines = log.strip().splitlines()[-LOG_LINES:]
    return "Its log ends with:\n" + "\n".join(f"    {line}" for line in lines or ["(nothing)"])


def stop_all(processes: Sequence[CeleryProcess], *, quick: bool) -> None:
    """Stop and close all processes in parallel."""

    def end(process: CeleryProcess) -> None:
        try:
            process.stop(quick=quick)
        finally:
            process.close()

    if processes:
        with ThreadPoolExecutor(len(processes)) as pool:
            list(pool.map(end, processes))
