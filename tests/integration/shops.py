"""A shop: a module in a directory of its own, with workers and listeners as processes."""

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
    """A process of the shop, with what it has written."""

    def __init__(self, start, args, cwd, env):
        self.log_path = cwd / f"{secrets.token_hex(4)}.log"
        self.log_path.touch()
        self.process = start(args, cwd=cwd, env=env, log=self.log_path)

    @property
    def log(self):
        """What it has written."""
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text, times=1, timeout=90.0):
        """Wait until it has written the text, so many times."""
        deadline = time.monotonic() + timeout
        while self.log.count(text) < times:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no {text!r} (exit code {self.process.poll()}):\n{self.log}")
            time.sleep(0.02)

    def signal(self, number):
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout=90.0):
        """Wait for its end; return its exit code."""
        return self.process.wait(timeout)

    def end(self):
        """End it, politely at first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(30)


class Shop:
    """A module in a directory, and the processes that run it.

    Attributes:
        START: What the module begins with.
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
            "C_FORCE_ROOT": "1",  # workers that accept pickle, as root
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(directory),  # for what a worker that is killed leaves behind
        }
        (directory / "shop.py").write_text(self.START + textwrap.dedent(source))

    def run(self, *command, **env):
        """Start a command."""
        running = Running(self._start, command, self.directory, {**self.env, **env})
        self.running.append(running)
        return running

    def notify(self, *pairs):
        """Send pairs of channel and text, in one transaction; return the pid that did."""
        with psycopg.connect(self.dsn, application_name="test") as connection:
            for channel, text in pairs:
                connection.execute("SELECT pg_notify(%s, %s)", (channel, text))
            return connection.info.backend_pid

    def sessions(self):
        """Return how many sessions others have in the shop's database."""
        with psycopg.connect(self.dsn, application_name="test") as connection:
            return connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name <> 'test'"
            ).fetchone()[0]

    def written(self, what):
        """Return all that tasks have written under a heading, each as a tuple."""
        lines = self.redis.lrange(f"{self.queue}:{what}", 0, -1)
        names = {"inf": float("inf"), "nan": float("nan"), "Decimal": Decimal}
        return [eval(line, names) for line in lines]

    def wait_written(self, what, count, timeout=90.0):
        """Wait until there are that many of them, and return them."""
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
