"""The Celery processes of the demo: two workers and the listener."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from signal import SIGKILL, SIGTERM

from pgnotifier.errors import PgNotifierError
from pgnotifier.testing.process import Steps, SupervisedProcess

STOP_STEPS: Steps = ((SIGTERM, 5.0), (SIGKILL, 5.0))
HURRIED_STEPS: Steps = ((SIGTERM, 1.0), (SIGKILL, 5.0))
LOG_LINES = 20


class DemoError(PgNotifierError, RuntimeError):
    """The demo can't go on; the message ends with the log of the culprit."""


class CeleryProcess:
    """A celery command as a process of its own.

    A supervisor keeps it, as it keeps the servers: so it ends with this process whatever
    way that goes, and its prefork children with it.
    """

    def __init__(
        self, name: str, app: str, arguments: Sequence[str], env: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            name: What the demo calls it.
            app: Module of the Celery app.
            arguments: The celery command with its options.
            env: Environment variables, in addition to ours.

        Raises:
            ServerError: It could not be started.
        """
        self.name = name
        # The first step is also what the kernel sends should the supervisor be killed.
        self._process = SupervisedProcess(steps=HURRIED_STEPS, unprivileged=False)
        command = [sys.executable, "-m", "celery", "-A", app, *arguments]
        # A pool leaves temporary directories behind when it is killed: there, they go, too.
        self._process.spawn(command, {**env, "TMPDIR": str(self._process.directory)})

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        return self._process.pid

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            DemoError: With the end of its log.
        """
        if self.pid is None:
            raise DemoError(f"{self.name} has ended. {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of its log, with a heading."""
        return quote_log(self._process.log())

    def stop(self, *, hurry: bool) -> None:
        """Have it finish what it is doing and end; with `hurry`, within a second."""
        self._process.stop(HURRIED_STEPS if hurry else STOP_STEPS)

    def close(self) -> None:
        """End it if it runs, and delete its log."""
        self._process.close()


def quote_log(log: str) -> str:
    """Return the last lines of a log, with a heading."""
    lines = log.strip().splitlines()[-LOG_LINES:]
    return "Its log ends with:\n" + "\n".join(f"    {line}" for line in lines or ["(nothing)"])


def stop_all(processes: Sequence[CeleryProcess], *, hurry: bool) -> None:
    """Stop and close all of them, side by side."""

    def end(process: CeleryProcess) -> None:
        try:
            process.stop(hurry=hurry)
        finally:
            process.close()

    if processes:
        with ThreadPoolExecutor(len(processes)) as pool:
            list(pool.map(end, processes))
