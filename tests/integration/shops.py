"""A shop: a directory with a module, and workers and listeners that run it as processes."""

import os
import secrets
import signal
import subprocess
import textwrap
import time
from decimal import Decimal

import psycopg
import pytest
import redis


class Running:
    """A process of the shop, and its output."""

    def __init__(self, start, args, cwd, env):
        self.log_path = cwd / f"{secrets.token_hex(4)}.log"
        self.log_path.touch()
        self.process = start(args, cwd=cwd, env=env, log=self.log_path)

    @property
    def log(self):
        """The process's output so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text, times=1, timeout=90.0):
        """Wait until the output has the text `times` times."""
        deadline = time.monotonic() + timeout
        while self.log.count(text) < times:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no {text!r} (exit code {self.process.poll()}):\n{self.log}")
            time.sleep(0.02)

    def signal(self, number):
        """Send the process a signal."""
        self.process.send_signal(number)

    def wait(self, timeout=90.0):
        """Wait until the process ends, and return its exit code."""
        return self.process.wait(timeout)

    def end(self):
        """End the process with SIGTERM, or with SIGKILL if it doesn't end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(30)


class Shop:
    """A directory with a module, and the processes that run it.

    Attributes:
        START: The first part of the module's source.
    """

    START = ""

    def __init__(self, directory, source, *, dsn, broker, start):
        self.dsn = dsn
        self._start = start
        self.queue = f"shop-{secrets.token_hex(6)}"
        self.directory = directory
        self.redis = redis.Redis.from_url(broker)
        self.running = []
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "DSN": dsn,
            "BROKER": broker,
            "QUEUE": self.queue,
            "PYTHONPATH": f"{directory}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "C_FORCE_ROOT": "1",  # Celery workers that accept pickle run as root
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(directory),  # for the files that a killed worker leaves
        }
        (directory / "shop.py").write_text(self.START + textwrap.dedent(source))

    def run(self, *command, **env):
        """Start a command."""
        running = Running(self._start, command, self.directory, {**self.env, **env})
        self.running.append(running)
        return running

    def notify(self, *pairs):
        """Send pairs of channel and text in one transaction, and return the session's pid."""
        with psycopg.connect(self.dsn, application_name="test") as connection:
            for channel, text in pairs:
                connection.execute("SELECT pg_notify(%s, %s)", (channel, text))
            return connection.info.backend_pid

    def sessions(self):
        """Return the number of sessions in the shop's database, without those of the test."""
        with psycopg.connect(self.dsn, application_name="test") as connection:
            return connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name <> 'test'"
            ).fetchone()[0]

    def written(self, what):
        """Return the facts that `write` has recorded under a name, each a tuple."""
        lines = self.redis.lrange(f"{self.queue}:{what}", 0, -1)
        names = {"inf": float("inf"), "nan": float("nan"), "Decimal": Decimal}
        return [eval(line, names) for line in lines]

    def wait_written(self, what, count, timeout=90.0):
        """Wait until `count` facts are recorded under a name, and return them."""
        deadline = time.monotonic() + timeout
        while len(found := self.written(what)) < count:
            if time.monotonic() > deadline:
                logs = "\n".join(running.log[-3000:] for running in self.running)
                pytest.fail(f"{len(found)} of {count} {what}:\n{found}\n{logs}")
            time.sleep(0.02)
        return found

    def close(self):
        """End all processes."""
        for running in self.running:
            running.end()
        self.redis.close()
