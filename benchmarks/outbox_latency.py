"""Measure the time from COMMIT to a task with an outbox: `python benchmarks/outbox_latency.py`.

Transactions of Django, 50 a second, each with a row and a task: in an outbox, or published after
the COMMIT, as by `delay_on_commit`. A worker (pool `solo`) on Valkey runs the tasks. The time is
measured from before the COMMIT to the first statement of the task, on a server that waits for the
disk. Each gets a second in turn.
"""

import itertools
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
from children import HERE, Child
from commandline import Settings, run
from latency import find_percentile
from names import ON_COMMIT, OURS
from pipeline import WORKER
from results import Limit, Row, Section
from rounds import divide, take_turns
from servers import Servers

from pgnotifier import durable
from pgnotifier.demo.processes import CeleryProcess

COUNT = 50
TURNS = 6
TIMEOUT = 60  # seconds


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the latencies."""
    dsn, turns = servers.durable_dsn, 1 if settings.quick else TURNS
    with psycopg.connect(dsn) as connection:
        durable.install(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id bigint NOT NULL)")
    with tempfile.TemporaryDirectory(prefix="pgnotifier-bench-") as directory, ExitStack() as stack:
        notes = Path(directory, "notes")
        notes.touch()
        env = {"BENCH_DSN": dsn, "BENCH_BROKER": servers.redis_url, "BENCH_OUTPUT": str(notes)}
        worker = CeleryProcess("the worker", "outbox_app", WORKER, {**env, "PYTHONPATH": str(HERE)})
        stack.callback(worker.close)
        children = [
            stack.enter_context(Child(script, env=env))
            for script in ("outbox_app.py", "outbox_committers.py")
        ]
        for child in children:
            assert child.read_message() == "ready"
        numbers = itertools.count(step=COUNT)

        def send(name: str) -> list[float]:
            first = next(numbers)
            committed = children[1].ask(f"{name} {first} {COUNT}")
            return wait_for(notes, first, committed)

        for name in (OURS, ON_COMMIT):
            send(name)  # each part has done something by then
        found: dict[str, list[list[float]]] = {OURS: [], ON_COMMIT: []}
        for _ in range(settings.rounds):
            for name, lots in take_turns((OURS, ON_COMMIT), turns, send).items():
                found[name].append([one for lot in lots for one in lot])
    section = Section(
        "from COMMIT to task, with an outbox", "milliseconds", f"{OURS} / the other, less is better"
    )
    for percent in (50, 99):
        ours, theirs = (
            [find_percentile(one, percent) for one in found[name]] for name in (OURS, ON_COMMIT)
        )
        limit = Limit(1.3, at_most=True) if percent == 50 else None
        section.rows.append(Row(f"{OURS}, p{percent}", ours))
        section.rows.append(Row(f"{ON_COMMIT}, p{percent}", theirs, divide(ours, theirs), limit))
    return [section]


def wait_for(notes: Path, first: int, committed: list[float]) -> list[float]:
    """Return how long each task took to begin, in seconds, once all have."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        lines = [line.split() for line in notes.read_text().splitlines()]
        begun = {int(number): float(at) for number, at in lines if int(number) >= first}
        if len(begun) == len(committed):
            return [begun[first + place] - at for place, at in enumerate(committed)]
        assert time.monotonic() < deadline, "something was lost"
        time.sleep(0.01)


if __name__ == "__main__":
    run(__doc__, [benchmark])
