"""Local processes in the place of Docker's containers, for pytest-celery."""

import secrets
import signal
import sys
import time

import pytest_docker_tools.exceptions
from pytest_celery import (
    CeleryTestContainer,
    CeleryWorkerContainer,
    RabbitMQContainer,
    RedisContainer,
)

from pgnotifier.testing.process import SupervisedProcess

ATTRS = {"NetworkSettings": {"Networks": {}, "Ports": {}}}


def wait_for_callable(message, func, timeout=60):
    """Wait as pytest-docker-tools does, but not a second at a time."""
    deadline = time.monotonic() + timeout
    while not func():
        if time.monotonic() > deadline:
            raise pytest_docker_tools.exceptions.TimeoutError(f"{message}: not in {timeout} s")
        time.sleep(0.02)


class LocalProcess:
    """Passes for a container of docker-py: one command, which ends with this process."""

    attrs = ATTRS

    def __init__(self, argv, env):
        self.id = secrets.token_hex(6)
        self.name = f"{argv[0]}-{self.id}"
        self.process = SupervisedProcess(steps=((signal.SIGKILL, 10.0),), unprivileged=False)
        self._argv = argv
        # What a worker that is killed leaves behind goes with the process's directory.
        self._env = {**env, "TMPDIR": str(self.process.directory)}
        self.process.spawn(self._argv, self._env)

    @property
    def status(self):
        """Whether it runs."""
        return "running" if self.process.pid else "exited"

    def logs(self):
        """Return what it has written, over all its lives."""
        return self.process.log().encode()

    def kill(self, signal="SIGKILL"):
        """Send it a signal; wait for its end, should that be due."""
        self.process.stop(((_number(signal), 30.0),))

    def restart(self, timeout=30):
        """End it politely, and start it again."""
        self.process.stop(((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)))
        self.process.spawn(self._argv, self._env)

    def reload(self):
        """Nothing is kept that could be out of date."""

    def remove(self, **_):
        """End it for good."""
        self.process.close()


class LocalServer:
    """Passes for a container that runs one of our embedded servers."""

    attrs = ATTRS

    def __init__(self, server):
        self.server = server
        self.id = secrets.token_hex(6)
        self.name = repr(server)

    @property
    def status(self):
        """Whether it runs."""
        return "running" if self.server.is_running() else "exited"

    def logs(self):
        """Return its log."""
        return self.server.log().encode()

    def kill(self, signal="SIGKILL"):
        """Kill it."""
        (self.server.kill if _number(signal) == 9 else self.server.stop)()

    def restart(self, timeout=30):
        """Stop it if it runs, and start it under its address."""
        self.server.stop()
        self.server.start()

    def reload(self):
        """Nothing is kept that could be out of date."""


def _number(name):
    return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)


class _LocalBroker(CeleryTestContainer):
    """A broker by its URL."""

    @property
    def url(self):
        """The URL, the same for everybody."""
        return self._container.server.url

    host_url = url

    @property
    def hostname(self):
        """The host of all."""
        return "127.0.0.1"

    @property
    def port(self):
        """The server's port."""
        return self._container.server._port


class LocalRedis(_LocalBroker, RedisContainer):
    """Valkey."""


class LocalRabbit(_LocalBroker, RabbitMQContainer):
    """RabbitMQ."""


class LocalWorker(CeleryWorkerContainer):
    """A worker, which has its queue from its environment."""

    queue = None

    def worker_queue(self):
        """Return its first queue."""
        return self.queue


class LocalListener(CeleryTestContainer):
    """`celery pgnotifier`."""

    ready_prompt = "of PostgreSQL"


def celery(*args):
    """Return the command line of a celery command of the app."""
    return [sys.executable, "-m", "celery", "-A", "clusterapp", *args]
