"""Run an embedded Valkey server, which speaks the protocol of Redis, as a broker for tests."""

from __future__ import annotations

import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from pgnotifier.testing.process import Steps, SupervisedProcess
from pgnotifier.testing.server import Server
from pgnotifier.testing.wheels import find_valkey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STOP_STEPS: Steps = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))


class ValkeyServer(Server):
    """An embedded Valkey on a port of 127.0.0.1, without a password."""

    variable: ClassVar[str] = "PGNOTIFIER_TEST_REDIS_URL"

    def __init__(self, *, persistent: bool = False) -> None:
        """Describe a server; `start` creates it.

        Args:
            persistent: Write everything to disk at once, so that it is still there after `stop`
                or `kill` and `start`. By default the data is lost when the server stops.
        """
        super().__init__()
        self._persistent = persistent

    @property
    def url(self) -> str:
        """The redis:// URL of database 0.

        Raises:
            ServerError: The server hasn't been started yet.
        """
        if self._external is not None:
            return self._external
        self._owned()
        return f"redis://127.0.0.1:{self._port}/0"

    def stop(self) -> None:
        """Stop the server; keep its address for the next `start`.

        Raises:
            ExternalServerError: The environment variable names the server.
        """
        self._stop(STOP_STEPS)

    def _create(self) -> SupervisedProcess:
        self._binary = find_valkey()
        return SupervisedProcess(steps=((signal.SIGKILL, 10.0),), unprivileged=False)

    def _needs_port(self) -> bool:
        return True

    def _argv(self) -> Sequence[str]:
        return [
            str(self._binary),
            *("--bind", "127.0.0.1"),
            *("--port", str(self._port)),
            *("--dir", str(self._owned().directory)),
            *("--save", ""),
            *("--appendonly", "yes" if self._persistent else "no"),
            *("--appendfsync", "always"),
        ]

    def _is_ready(self, pid: int) -> bool:
        # Another server may have taken the port, so check the pid of the one that answers.
        assert self._port is not None
        info = _ask_info(self._port).split(b"\r\n")
        return f"process_id:{pid}".encode() in info and b"loading:0" in info

    def _prepare(self) -> None:
        """Do nothing: a new server is ready as it is."""


@contextmanager
def valkey_server(*, persistent: bool = False) -> Iterator[str]:
    """Run a Valkey server, and yield its redis:// URL.

    If `PGNOTIFIER_TEST_REDIS_URL` is set, the server that it names is used instead, and the
    argument has no effect.

    Args:
        persistent: Write everything to disk at once. By default nothing is written.
    """
    with ValkeyServer(persistent=persistent) as server:
        yield server.url


def _ask_info(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
            connection.sendall(b"INFO server persistence\r\nQUIT\r\n")
            return b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return b""
