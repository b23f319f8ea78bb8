"""Measure how fast durable publications get to the broker: `python benchmarks/durable_broker.py`.

With Valkey as Redis; no worker executes the tasks. Everything was published before, each
publication in its own transaction, on a server that waits for the disk (`fsync` is on). The time is
measured from when the relay begins to read until the last message is in the queue.

    pgnotifier           a Notifier with a CeleryDispatcher, one durable subscription
    outbox               `DELETE … FOR UPDATE SKIP LOCKED` of a thousand rows, messages, COMMIT
    outbox, apply_async  the same, with messages that Celery makes: `apply_async` on one connection
    pgqueuer             its worker, with batches of a thousand
    procrastinate        its worker, with ten jobs at a time
    django-pgpubsub      its listener, with a lockable channel
    four subscriptions   pgnotifier, in four processes that share four subscriptions: four messages
                         for each publication
    four outbox readers  the outbox with four rows for each publication, and four processes

All but `outbox, apply_async` make messages with the same CeleryDispatcher: see durable_relays.py.
"""

import time
from contextlib import ExitStack
from typing import Any

import psycopg
import redis
from children import Child
from commandline import Settings, run
from durable_queues import START, empty, fill, install
from names import OURS, OUTBOX, OUTBOX_APPLY, PGPUBSUB, PGQUEUER, PROCRASTINATE
from results import Limit, Section, compare
from rounds import take_turns
from servers import Servers

COUNT = 40_000
QUEUE = "celery"
TIMEOUT = 60  # seconds
FEWER = 40
"""The slow ones get the count divided by this."""
SLOW = (OUTBOX_APPLY, PROCRASTINATE, PGPUBSUB)
FOUR, FOUR_READERS = "four subscriptions", "four outbox readers"
LIMITS = {
    OUTBOX: Limit(1.0),
    PGQUEUER: Limit(1.0),
    PROCRASTINATE: Limit(20.0),
}


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the relays: one process each, then four."""
    dsn, url = servers.durable_dsn, servers.redis_url
    install(dsn)
    count = settings.count(COUNT)

    def relay(name: str) -> float:
        if name == FOUR:
            return measure(OURS, dsn, url, count, subscriptions=4, processes=4)
        if name == FOUR_READERS:
            return measure(OUTBOX, dsn, url, 4 * count, processes=4)
        return measure(name, dsn, url, max(1, count // FEWER) if name in SLOW else count)

    names = (OURS, OUTBOX, OUTBOX_APPLY, PGQUEUER, PROCRASTINATE, PGPUBSUB, FOUR, FOUR_READERS)
    rates = take_turns(names, settings.rounds, relay)
    one = {name: rates[name] for name in names if name not in (FOUR, FOUR_READERS)}
    four = {name: rates[name] for name in (FOUR, FOUR_READERS, OUTBOX)}
    return [
        compare("durable tasks in Redis", "a second", one, OURS, LIMITS),
        compare(
            "durable tasks in Redis, from four processes",
            "a second",
            four,
            FOUR,
            {OUTBOX: Limit(2.0)},
        ),
    ]


def measure(
    name: str, dsn: str, url: str, count: int, subscriptions: int = 1, processes: int = 1
) -> float:
    """Return how many messages a second get to the broker.

    Args:
        name: The relay.
        dsn: The database.
        url: The broker.
        count: How many publications there are.
        subscriptions: How many messages there are to be for each.
        processes: How many relays share the work.
    """
    empty(dsn)
    fill(dsn, OUTBOX if name == OUTBOX_APPLY else name, count)
    expected = count * subscriptions
    broker: Any = redis.Redis.from_url(url)
    broker.delete(QUEUE)
    with ExitStack() as stack:
        start = stack.enter_context(psycopg.connect(dsn))
        start.execute("SELECT pg_advisory_lock(%s)", (START,))
        env = {"BENCH_DSN": dsn, "BENCH_BROKER": url}
        children = [
            stack.enter_context(Child("durable_relays.py", name, expected, subscriptions, env=env))
            for _ in range(processes)
        ]
        for child in children:
            assert child.read_message() == "ready"
        start.close()
        began = time.monotonic()
        found = count_messages(broker, expected)
        seconds = time.monotonic() - began
    broker.delete(QUEUE)
    assert found == expected, f"{name}: {found} tasks of {expected}"
    return expected / seconds


def count_messages(broker: Any, expected: int) -> int:
    """Return how many messages are in the queue once they are all there, or after a minute."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found: int = broker.llen(QUEUE)
        if found >= expected or time.monotonic() > deadline:
            return found
        time.sleep(0.002)


if __name__ == "__main__":
    run(__doc__, [benchmark])
