"""Run the whole route: a sender, a listener of each kind, a broker, and a Celery worker."""

import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
from children import HERE, Child
from names import LOOP, OURS

from pgnotifier.demo.processes import CeleryProcess

CHANNELS = {OURS: "bench_ours", LOOP: "bench_loop"}
WORKER = ["worker", "--pool=solo", "--loglevel=WARNING"]
WORKER += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
UNBOUNDED = 10**9
TIMEOUT = 60  # seconds


class Pipeline:
    """Both listeners, and one worker for the tasks of both, all running."""

    def __init__(self, connection: psycopg.Connection, worker: CeleryProcess, notes: Path) -> None:
        self._connection = connection
        self._worker = worker
        self._notes = notes.open()
        self._numbers = itertools.count()

    def send_burst(self, name: str, count: int) -> list[float]:
        """Send all in one transaction, and return how long each took to run, in seconds."""
        numbers = list(itertools.islice(self._numbers, count))
        payloads = [_write(number) for number in numbers]
        self._connection.execute(
            "SELECT count(pg_notify(%s, payload)) FROM unnest(%s::text[]) AS payload",
            (CHANNELS[name], payloads),
        )
        return self._wait_for(name, numbers)

    def send_steadily(self, name: str, count: int, rate: float) -> list[float]:
        """Send one by one at a rate a second, and return how long each took to run, in seconds."""
        numbers = list(itertools.islice(self._numbers, count))
        began = time.monotonic()
        for place, number in enumerate(numbers):
            # If it is sent late, the time is measured from then, because the sender doesn't count.
            time.sleep(max(0.0, began + place / rate - time.monotonic()))
            self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNELS[name], _write(number)))
        return self._wait_for(name, numbers)

    def close(self) -> None:
        """Close the file with the records."""
        self._notes.close()

    def _wait_for(self, name: str, numbers: list[int]) -> list[float]:
        deadline = time.monotonic() + TIMEOUT
        found: dict[int, float] = {}
        while len(found) < len(numbers):
            for line in self._notes:
                number, seconds = line.split()
                assert int(number) not in found, f"{name}: a task was run twice"
                found[int(number)] = float(seconds)
            self._worker.check()
            assert time.monotonic() < deadline, f"{name} lost something"
            time.sleep(0.01)
        assert sorted(found) == numbers, f"{name}: tasks of other notifications were run"
        return [found[number] for number in numbers]


@contextlib.contextmanager
def running_pipeline(dsn: str, broker: str) -> Iterator[Pipeline]:
    """Start everything, wait until each part has done something, and yield it."""
    with tempfile.TemporaryDirectory(prefix="pgnotifier-bench-") as directory, ExitStack() as stack:
        notes = Path(directory, "notes")
        notes.touch()
        env = {"BENCH_DSN": dsn, "BENCH_BROKER": broker, "BENCH_OUTPUT": str(notes)}
        ours = {**env, "BENCH_CHANNEL": CHANNELS[OURS], "PYTHONPATH": str(HERE)}
        worker = CeleryProcess("the worker", "bench_app", WORKER, ours)
        stack.callback(worker.close)
        for name, channel in CHANNELS.items():
            listener = Child(
                "publishers.py", name, UNBOUNDED, env={**env, "BENCH_CHANNEL": channel}
            )
            assert stack.enter_context(listener).read_message() == "ready"
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        pipeline = Pipeline(connection, worker, notes)
        stack.callback(pipeline.close)
        for name in CHANNELS:
            pipeline.send_burst(name, 10)
        yield pipeline


def _write(number: int) -> str:
    return json.dumps({"n": number, "at": time.monotonic()})
