"""The base class of the embedded servers: starting, stopping, and using an external one instead."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from pgnotifier.testing.errors import ExternalServerError, ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from pgnotifier.testing.process import Steps, SupervisedProcess

PORT_ATTEMPTS = 5
LOG_TAIL = 4000  # characters of the log in an error


class Server(ABC):
    """A server that this process can start, stop and start again with the same address.

    It is stopped and its data is deleted by `close`, at the end of a `with` block, or when this
    process ends, even by SIGKILL. Any thread may call the methods, but only one thread at a time
    may start, stop or close the server.

    If its environment variable is set, the object stands for the server that the variable names.
    That one has an address, but can't be started or stopped.
    """

    variable: ClassVar[str]
    kill_steps: ClassVar[Steps] = ((signal.SIGKILL, 10.0),)
    start_timeout: ClassVar[float] = 60.0
    """Seconds; a second is usual, but machines that run tests are busy."""

    def __init__(self) -> None:
        self._external = os.environ.get(self.variable) or None
        self._process: SupervisedProcess | None = None
        self._port: int | None = None

    @property
    def is_external(self) -> bool:
        """Whether the environment variable names a server to use instead."""
        return self._external is not None

    @property
    def pid(self) -> int:
        """The pid of the server.

        Raises:
            ServerError: It isn't running.
        """
        pid = self._owned().pid
        if pid is None:
            raise ServerError(f"{self!r} is not running")
        return pid

    def is_running(self) -> bool:
        """Return whether the server runs. An external one is assumed to run."""
        return self.is_external or (self._process is not None and self._process.pid is not None)

    def start(self) -> None:
        """Start the server with the address and data it had before; return when it is ready.

        A no-op if it is running.

        Raises:
            ExternalServerError: The environment variable names the server.
            ServerNotInstalledError: The server's binaries aren't installed.
            ServerError: The server did not start. The message ends with the end of its log.
        """
        self._refuse_external("start")
        if self._process is None:
            self._start_first()
        elif self._process.pid is None:
            self._launch()

    def kill(self) -> None:
        """Send SIGKILL to the server, as the out-of-memory killer would; wait for its end."""
        self._stop(self.kill_steps)

    def log(self) -> str:
        """Return the server's whole log; empty before `start`."""
        return "" if self._process is None else self._process.log()

    def close(self) -> None:
        """Stop the server if it runs, and delete its data. An external one is left alone."""
        if self._process is not None and self._process.is_ours():
            process, self._process, self._port = self._process, None, None
            process.close()

    def __enter__(self) -> Self:
        if not self.is_external:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # Don't show the address: it may contain a password.
        if self.is_external:
            return f"<{type(self).__name__} named by {self.variable}>"
        where = "not started" if self._process is None else f"in {self._process.directory}"
        return f"<{type(self).__name__} {where}>"

    @abstractmethod
    def _create(self) -> SupervisedProcess:
        """Return the process with everything it needs, except for a port."""

    @abstractmethod
    def _needs_port(self) -> bool: ...

    @abstractmethod
    def _argv(self) -> Sequence[str]: ...

    def _env(self) -> Mapping[str, str]:
        """Return further environment variables for the server."""
        return {}

    @abstractmethod
    def _is_ready(self, pid: int) -> bool:
        """Return whether the server with this process id is ready, and not another server."""

    @abstractmethod
    def _prepare(self) -> None:
        """Do what is needed once, after the first start."""

    def _owned(self) -> SupervisedProcess:
        if self._process is None:
            self._refuse_external("control")
            raise ServerError(f"{self!r}: call start() first")
        return self._process

    def _refuse_external(self, verb: str) -> None:
        if self.is_external:
            raise ExternalServerError(
                f"can't {verb} the server that {self.variable} names; "
                f"unset {self.variable} to start a server instead"
            )

    def _stop(self, steps: Steps) -> None:
        self._refuse_external("stop")
        if self._process is not None:
            self._process.stop(steps)

    def _start_first(self) -> None:
        self._process = self._create()
        try:
            if self._needs_port():
                self._launch_on_free_port()
            else:
                self._launch()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _launch_on_free_port(self) -> None:
        # Another process may take the port after it was found to be free, so try several times.
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            self._port = self._owned().reserve_port()
            logged = len(self.log())
            try:
                self._launch()
            except ServerError:
                if attempts_left == 0 or "Address already in use" not in self.log()[logged:]:
                    raise
            else:
                return

    def _launch(self) -> None:
        process = self._owned()
        process.spawn(self._argv(), self._env())
        deadline = time.monotonic() + self.start_timeout
        while (pid := process.pid) is not None and time.monotonic() < deadline:
            if self._is_ready(pid):
                return
            time.sleep(0.01)
        process.stop(self.kill_steps)
        raise ServerError(f"{self!r} did not start. Its log ends with:\n{self.log()[-LOG_TAIL:]}")
