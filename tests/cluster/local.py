"""Local processes that replace Docker containers, for pytest-celery."""

import os
import secrets
import signal
import subprocess
import sys
import time
from functools import partial
from signal import SIGKILL

import pytest_docker_tools.exceptions
from pytest_celery import (
    CeleryTestContainer,
    CeleryWorkerContainer,
    RabbitMQContainer,
    RedisContainer,
)

ATTRS = {"NetworkSettings": {"Networks": {}, "Ports": {}}}


def wait_for_callable(message, func, timeout=60):
    """Wait as pytest-docker-tools does, but poll more often than once a second."""
    deadline = time.monotonic() + timeout
    while not func():
        if time.monotonic() > deadline:
            raise pytest_docker_tools.exceptions.TimeoutError(f"{message}: not in {timeout} s")
        time.sleep(0.02)


class LocalProcess:
    """Imitates a container of docker-py with a command that ends when this process does."""

    attrs = ATTRS

    def __init__(self, start, directory, argv, env):
        self.id = secrets.token_hex(6)
        self.name = f"{argv[0]}-{self.id}"
        self._log = directory / f"{self.id}.log"
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # What a killed worker leaves behind is deleted with the test's directory.
        env = {**ours, **env, "TMPDIR": str(directory)}
        self._start = partial(start, argv, cwd=directory, env=env, log=self._log)
        self._process = self._start()

    @property
    def status(self):
        """Whether it runs."""
        return "running" if self._process.poll() is None else "exited"

    def logs(self):
        """Return what it has written, including before restarts."""
        return self._log.read_bytes() if self._log.exists() else b""

    def kill(self, signal="SIGKILL"):
        """Send it a signal, and wait for its end."""
        if _number(signal) == SIGKILL:
            self._process.kill_group()
        else:
            self._process.send_signal(_number(signal))
        self._process.wait(30)

    def restart(self, timeout=30):
        """End it with SIGTERM, and start it again."""
        self._end(timeout)
        self._process = self._start()

    def reload(self):
        """Do nothing: nothing is cached that could be out of date."""

    def remove(self, **_):
        """Kill it for good."""
        self._process.kill_group()
        self._process.wait(10)

    def _end(self, timeout):
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.remove()


class LocalServer:
    """Imitates a container that runs one of our embedded servers."""

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
        """Kill it, or stop it if the signal isn't SIGKILL."""
        (self.server.kill if _number(signal) == 9 else self.server.stop)()

    def restart(self, timeout=30):
        """Stop it if it runs, and start it again at the same address."""
        self.server.stop()
        self.server.start()

    def reload(self):
        """Do nothing: nothing is cached that could be out of date."""


def _number(name):
    return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)


class _LocalBroker(CeleryTestContainer):
    """A broker that is reached by its server's URL."""

    @property
    def url(self):
        """The URL, which is the same for all nodes."""
        return self._container.server.url

    host_url = url

    @property
    def hostname(self):
        """The host, which is the same for all nodes."""
        return "127.0.0.1"

    @property
    def port(self):
        """The server's port."""
        return self._container.server._port


class LocalRedis(_LocalBroker, RedisContainer):
    """A Valkey server."""


class LocalRabbit(_LocalBroker, RabbitMQContainer):
    """A RabbitMQ server."""


class LocalWorker(CeleryWorkerContainer):
    """A Celery worker; the fixture that starts it sets its queue."""

    queue = None

    def worker_queue(self):
        """Return its first queue."""
        return self.queue


class LocalListener(CeleryTestContainer):
    """A listener that runs as `celery pgnotifier`."""

    ready_prompt = "of PostgreSQL"


def celery(*args):
    """Return the command line of a `celery` command for the app."""
    return [sys.executable, "-m", "celery", "-A", "clusterapp", *args]
