"""Run a private RabbitMQ server, from the package that is installed on the system."""

from __future__ import annotations

import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pgnotifier.testing.errors import ServerNotInstalledError
from pgnotifier.testing.process import Steps, SupervisedProcess
from pgnotifier.testing.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STOP_STEPS: Steps = ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0))
INSTALLATIONS = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
STARTED = "Server startup complete"


class RabbitServer(Server):
    """A RabbitMQ on its own ports of 127.0.0.1, independent of any that the system runs.

    There is no wheel for it; on Debian, install the package `rabbitmq-server`. Messages published
    as persistent are still there after `stop` or `kill` and `start`.
    """

    variable: ClassVar[str] = "PGNOTIFIER_TEST_AMQP_URL"
    start_timeout: ClassVar[float] = 150.0
    """Seconds; eight are usual, all of them computing, and so many more on a busy machine."""

    @property
    def url(self) -> str:
        """The amqp:// URL of the virtual host `/`, for the user `guest`.

        Raises:
            ServerError: The server hasn't been started yet.
        """
        if self._external is not None:
            return self._external
        self._owned()
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def stop(self) -> None:
        """Stop the server; keep its address for the next `start`.

        Raises:
            ExternalServerError: The environment variable names the server.
        """
        self._stop(STOP_STEPS)

    def _create(self) -> SupervisedProcess:
        self._program = find_rabbitmq()
        process = SupervisedProcess(steps=((signal.SIGKILL, 10.0),), unprivileged=False)
        # For Erlang's distribution and its port mapper daemon (epmd). Both start with the
        # server, and must not collide with those of other servers.
        self._inner_ports = (process.reserve_port(), process.reserve_port())
        return process

    def _needs_port(self) -> bool:
        return True

    def _argv(self) -> Sequence[str]:
        self._starts = self.log().count(STARTED)
        return [str(self._program)]

    def _env(self) -> Mapping[str, str]:
        directory = self._owned().directory
        node_port, epmd_port = map(str, self._inner_ports)
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self._port}\n"
            # A test server must not block when the machine is short of disk or memory.
            "disk_free_limit.absolute = 1MB\n"
            "vm_memory_high_watermark.relative = 0.9\n"
        )
        return {
            "HOME": str(directory),  # where Erlang keeps its cookie
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then execs the server
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": epmd_port,
            "RABBITMQ_NODENAME": f"{directory.name}@localhost",
            "RABBITMQ_DIST_PORT": node_port,
            "RABBITMQ_BASE": str(directory),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} "
                # Otherwise its schedulers keep a core busy while they wait for work.
                "+sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    def _is_ready(self, pid: int) -> bool:  # noqa: ARG002
        # Check the log, because another server may have taken the port.
        assert self._port is not None
        if self.log().count(STARTED) <= self._starts:
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _prepare(self) -> None:
        """Do nothing: a new server is ready as it is."""


@contextmanager
def rabbit_server() -> Iterator[str]:
    """Run a RabbitMQ server, and yield its amqp:// URL.

    If `PGNOTIFIER_TEST_AMQP_URL` is set, the server that it names is used instead.
    """
    with RabbitServer() as server:
        yield server.url


def find_rabbitmq() -> Path:
    """Return the path of the program that starts the server.

    Raises:
        ServerNotInstalledError: The package isn't installed.
    """
    for program in sorted(Path("/").glob(INSTALLATIONS.removeprefix("/")), reverse=True):
        return program
    raise ServerNotInstalledError(
        "RabbitMQ isn't installed. Run: apt install rabbitmq-server (and stop the service that it "
        f"starts, if you like), or set {RabbitServer.variable} to use a server that is already "
        "running"
    )
