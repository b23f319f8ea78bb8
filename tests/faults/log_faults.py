"""Faults for readers of the durable log: replicas that are killed, stopped and cut off."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from base64 import b64decode
from contextlib import ExitStack
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from redis import Redis

from benchmarks.soaking.proxy import EVERYTHING, FAIR, FaultyProxy, Weather

from . import log_replicas

BATCH = 20
"""How many entries may be delivered again after a fault. Few, so that this bound is far exceeded
if the position isn't saved, or if it is saved too late."""
SIZES = (BATCH, 4, 50)
SCRIPT = Path(log_replicas.__file__)
ROOT = SCRIPT.parents[2]
PATIENCE = {"heartbeat_timeout": 0.2}
"""So that a source gives up a connection on which nothing is answered for 1.2 seconds."""


class Replicas:
    """Three replicas, each with the same durable subscriptions.

    Two of three die by themselves, at some line or after some entry. Whichever has died is started
    again.

    Attributes:
        faults: How many there were of those after which a batch may be delivered again.
        killed: The numbers of the replicas that have died.
    """

    def __init__(self, server, directory, seed, *, cuts=False, broker=""):
        """Start them.

        Args:
            server: Where the log is.
            directory: For what they are delivered.
            seed: Of all random choices.
            cuts: Whether their connections are broken, too. They go through a proxy then.
            broker: The URL of the Valkey to which they send tasks, if they don't call callbacks.
        """
        self.seed = seed
        self.faults, self.killed = 0, set()
        self._directory, self._broker = directory, broker
        self._random = random.Random(seed)
        self._dice = [self._kill, self._stop]
        self._stack = ExitStack()
        self._dsns, self._proxies, self._settings = [server.dsn] * 3, [], {}
        if cuts:
            self._dice += [self._cut, self._swallow, self._cut_while_stopped]
            self._dsns = [self._proxy(server.dsn) for _ in range(3)]
            self._settings = PATIENCE
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
        with (directory / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(directory), broker, *map(str, SIZES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=environment | {"PYTHONPATH": str(ROOT)},
            )
        self._count = 0
        self._numbers = [0] * 3
        for at in range(3):
            self._start(at)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._stack.close()

    @property
    def errors(self):
        """What they have written to their standard error."""
        return (self._directory / "errors").read_text()

    def count(self, name):
        """Return how many deliveries there were to a subscription."""
        if self._broker:
            with Redis.from_url(self._broker) as redis:
                return redis.llen(name)
        path = self._directory / name
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def delivered(self, name):
        """Return (number, key, n, replica) of what a subscription got, in order.

        If there is a broker, the number of the replica is 0.
        """
        if self._broker:
            with Redis.from_url(self._broker) as redis:
                messages = map(json.loads, reversed(redis.lrange(name, 0, -1)))
                bodies = [json.loads(b64decode(one["body"])) for one in messages]
            return [(*arguments[2], 0) for arguments, *_ in bodies]
        path = self._directory / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(map(int, line.split())) for line in lines]

    def strike(self):
        """Cause a random fault, and replace those that have died."""
        self._random.choice(self._dice)(self._random.randrange(3))
        self.look()

    def look(self):
        """Replace those that have died by themselves."""
        self._command("look")

    def calm_down(self):
        """Replace those that would die by themselves by others."""
        self._dice.clear()
        for at in range(3):
            self._kill(at)

    # --- the faults ---

    def _kill(self, at):
        self._command("signal", self._numbers[at], signal.SIGKILL)

    def _stop(self, at, meanwhile=lambda: None):
        number = self._numbers[at]
        self.faults += 1
        self._command("signal", number, signal.SIGSTOP)
        meanwhile()
        time.sleep(self._random.uniform(0.0, 0.3))
        self._command("signal", number, signal.SIGCONT)

    def _cut(self, at):
        self.faults += 1
        proxy = self._proxies[at]
        self._random.choice([proxy.cut, proxy.reset])()

    def _cut_while_stopped(self, at):
        """Have others go on with its subscriptions before it finds that its session has ended."""
        self._stop(at, self._proxies[at].reset)

    def _swallow(self, at):
        """Drop everything, until it notices that, or its connection is cut in the end."""
        self.faults += 1
        proxy = self._proxies[at]
        proxy.weather = Weather(swallows=EVERYTHING)
        time.sleep(self._random.uniform(0.0, 1.5))
        proxy.weather = FAIR
        proxy.reset()

    # --- the processes ---

    def _proxy(self, dsn):
        where = conninfo_to_dict(dsn)
        socket = Path(where["host"]) / f".s.PGSQL.{where['port']}"
        self._proxies.append(self._stack.enter_context(FaultyProxy(socket)))
        address = {"host": "127.0.0.1", "port": self._proxies[-1].port}
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        return make_conninfo(dsn, **address, **plain)

    def _start(self, at):
        self._count += 1
        self._numbers[at] = self._count
        # Until the first entry is read, thousands of lines are executed.
        ways = (0, 0), (0, self._random.randrange(1, 500)), (self._random.randrange(1, 20_000), 0)
        lines, entries = self._random.choice(ways) if self._dice else (0, 0)
        self._command("start", self._count, self._dsns[at], self._settings, lines, entries)

    def _command(self, *what):
        self._process.stdin.write(f"{json.dumps(what)}\n")
        self._process.stdin.flush()
        for number, code in json.loads(self._process.stdout.readline()):
            assert code == -signal.SIGKILL, self.errors
            self.faults += 1
            self.killed.add(number)
            self._start(self._numbers.index(number))
