"""Measure the time from COMMIT to a Celery task, durably: `python benchmarks/durable_latency.py`.

The same listener and the same worker (pool `solo`) on Valkey serve a durable subscription and one
that listens to a plain NOTIFY. The time is measured from before the COMMIT to the first statement
of the task, on a server that waits for the disk (`fsync` is on). Each gets a second in turn.

Each transaction also inserts a row, as those of applications do: one with nothing but a NOTIFY has
nothing to write, so its COMMIT doesn't wait for the disk. That is measured, too, for comparison.

There are two kinds of writers: one that commits 50 times a second, and eight slow ones. Their
transactions stay open for up to 160 ms after they have published.
"""

import contextlib
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import psycopg
from children import HERE, Child
from commandline import Settings, run
from durable_queues import LATENCY_CHANNELS as CHANNELS
from durable_queues import install
from latency import find_percentile
from names import OURS, PLAIN
from pipeline import WORKER
from results import Limit, Row, Section
from rounds import divide, take_turns
from servers import Servers

from pgnotifier import durable
from pgnotifier.demo.processes import CeleryProcess

RATE = 50
BARE = f"{PLAIN}, and nothing else"
SLOW_WRITERS = 8
LONGEST = 0.16
"""Seconds for which a slow writer's transaction stays open, at most."""
TURNS = 6
TIMEOUT = 60  # seconds


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the latencies with both kinds of writers."""
    dsn = servers.durable_dsn
    install(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id bigint NOT NULL)")
    turns = 1 if settings.quick else TURNS
    sections = []
    with running_route(dsn, servers.redis_url) as route:
        for title, send in (
            (f"from COMMIT to task, at {RATE} a second", route.send_steadily),
            (f"from COMMIT to task, {SLOW_WRITERS} slow writers", route.send_slowly),
        ):
            found: dict[str, list[list[float]]] = {OURS: [], PLAIN: [], BARE: []}
            for _ in range(settings.rounds):
                for name, lots in take_turns((OURS, PLAIN, BARE), turns, send).items():
                    found[name].append([one for lot in lots for one in lot])
            sections.append(compare(title, found, is_slow=send == route.send_slowly))
    return sections


def compare(title: str, found: dict[str, list[list[float]]], *, is_slow: bool) -> Section:
    """Return a section of medians and 99th percentiles."""
    section = Section(title, "milliseconds", f"{OURS} / the other, less is better")
    for percent in (50, 99):
        ours, plain, bare = (
            [find_percentile(one, percent) for one in found[name]] for name in (OURS, PLAIN, BARE)
        )
        most = Limit(50, at_most=True) if is_slow and percent == 99 else None
        ratio = Limit(1.3, at_most=True) if not is_slow and percent == 50 else None
        section.rows.append(Row(f"{OURS}, p{percent}", ours, limit=most))
        section.rows.append(Row(f"{PLAIN}, p{percent}", plain, divide(ours, plain), ratio))
        section.rows.append(Row(f"{BARE}, p{percent}", bare, divide(ours, bare)))
    return section


class Route:
    """The listener and the worker, running, and the connections that send."""

    def __init__(
        self, connections: list[psycopg.Connection], worker: CeleryProcess, notes: TextIO
    ) -> None:
        self._connections = connections
        self._worker = worker
        self._notes = notes
        self._numbers = itertools.count()

    def send_steadily(self, name: str) -> list[float]:
        """Send for a second, and return how long each took from its COMMIT, in seconds."""
        began, committed = time.monotonic(), {}
        for place, number in enumerate(itertools.islice(self._numbers, RATE)):
            time.sleep(max(0.0, began + place / RATE - time.monotonic()))
            committed[number] = _send(self._connections[0], name, number, 0.0)
        return self._wait_for(committed)

    def send_slowly(self, name: str) -> list[float]:
        """Send for about a second in slow transactions; return the same."""
        numbers = list(itertools.islice(self._numbers, SLOW_WRITERS * int(2 / LONGEST)))

        def send_some(place: int) -> dict[int, float]:
            connection = self._connections[place]
            return {
                number: _send(connection, name, number, random.uniform(0.0, LONGEST))
                for number in numbers[place::SLOW_WRITERS]
            }

        with ThreadPoolExecutor(SLOW_WRITERS) as pool:
            sent = list(pool.map(send_some, range(SLOW_WRITERS)))
        return self._wait_for({number: at for some in sent for number, at in some.items()})

    def _wait_for(self, committed: dict[int, float]) -> list[float]:
        deadline = time.monotonic() + TIMEOUT
        found: dict[int, float] = {}
        while len(found) < len(committed):
            for line in self._notes:
                number, at = line.split()
                assert int(number) not in found, "a task was run twice"
                found[int(number)] = float(at) - committed[int(number)]
            self._worker.check()
            assert time.monotonic() < deadline, "something was lost"
            time.sleep(0.01)
        return list(found.values())


def _send(connection: psycopg.Connection, name: str, number: int, seconds: float) -> float:
    """Publish in a transaction that stays open for a while; return when its COMMIT began."""
    if name != BARE:
        connection.execute("INSERT INTO orders (id) VALUES (%s)", (number,))
    if name == OURS:
        durable.publish(connection, CHANNELS[name], number)
    else:
        connection.execute("SELECT pg_notify(%s, %s)", (CHANNELS[PLAIN], str(number)))
    time.sleep(seconds)
    at = time.monotonic()
    connection.commit()
    return at


@contextlib.contextmanager
def running_route(dsn: str, broker: str) -> Iterator[Route]:
    """Start everything, wait until each part has done something, and yield it."""
    with tempfile.TemporaryDirectory(prefix="pgnotifier-bench-") as directory, ExitStack() as stack:
        notes = Path(directory, "notes")
        notes.touch()
        env = {"BENCH_DSN": dsn, "BENCH_BROKER": broker, "BENCH_OUTPUT": str(notes)}
        worker = CeleryProcess(
            "the worker", "durable_app", WORKER, {**env, "PYTHONPATH": str(HERE)}
        )
        stack.callback(worker.close)
        listener = stack.enter_context(Child("durable_app.py", env=env))
        assert listener.read_message() == "ready"
        connections = [stack.enter_context(psycopg.connect(dsn)) for _ in range(SLOW_WRITERS)]
        route = Route(connections, worker, stack.enter_context(notes.open()))
        for name in CHANNELS:
            route.send_steadily(name)
        yield route


if __name__ == "__main__":
    run(__doc__, [benchmark])
