"""Measure an outbox of RQ jobs, beside `queue.enqueue`: `python benchmarks/rq_outbox.py`.

With Valkey as Redis, and a server that waits for the disk (`fsync` is on). No worker executes the
jobs. First, transactions with a row and a job each; the job is enqueued in a block, or after the
COMMIT. Then jobs that are there already are enqueued: by the relay, from when it begins to read
until the last one is in the queue, or in a loop.

    pgnotifier            an RQOutbox
    queue.enqueue loop    `queue.enqueue(f, …)` again and again
"""

import time
from contextlib import ExitStack

import psycopg
from children import Child
from commandline import Settings, run
from durable_queues import START
from names import ENQUEUE, OURS
from outbox import wait_for
from redis import Redis
from results import Section, compare
from rounds import take_turns
from rq import Queue
from servers import Servers

from pgnotifier import durable

COUNT = 5000
FEWER = 10
"""Transactions are the count divided by this."""


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the rates of transactions, and those of jobs."""
    dsn, url, count = servers.durable_dsn, servers.redis_url, settings.count(COUNT)
    fewer = max(1, count // FEWER)
    with psycopg.connect(dsn) as connection:
        durable.install(connection)
    names = [OURS, ENQUEUE]
    committing = take_turns(names, settings.rounds, lambda name: commit(name, dsn, url, fewer))
    enqueuing = take_turns(names, settings.rounds, lambda name: enqueue(name, dsn, url, count))
    return [
        compare("transactions with an RQ job", "a second", committing, OURS, {}),
        compare("an outbox of RQ jobs into Redis", "a second", enqueuing, OURS, {}),
    ]


def commit(name: str, dsn: str, url: str, count: int) -> float:
    """Return how many transactions a second there are, each with a job."""
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": url}
    with Redis.from_url(url) as connection:
        with Child("rq_outbox_jobs.py", f"commit {name}", count, env=env) as child:
            seconds = float(child.read_message())
        connection.flushdb()
    return count / seconds


def enqueue(name: str, dsn: str, url: str, count: int) -> float:
    """Return how many jobs a second get to the queue."""
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": url}
    if name == OURS:
        with Child("rq_outbox_jobs.py", "fill", count, env=env) as child:
            assert child.read_message() == "filled"
    with Redis.from_url(url) as connection, ExitStack() as stack:
        start = stack.enter_context(psycopg.connect(dsn))
        start.execute("SELECT pg_advisory_lock(%s)", (START,))
        queue = Queue("bench", connection=connection)
        child = stack.enter_context(Child("rq_outbox_jobs.py", name, count, env=env))
        assert child.read_message() == "ready"
        began = time.monotonic()
        start.close()
        found = wait_for(lambda: queue.count, count)
        seconds = time.monotonic() - began
        connection.flushdb()
    assert found == count, f"{name}: {found} jobs of {count}"
    return count / seconds


if __name__ == "__main__":
    run(__doc__, [benchmark])
