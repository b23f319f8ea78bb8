"""How fast notifications become tasks in Redis: `python benchmarks/celery_redis.py`.

Three ways are compared, each in a fresh process, taking turns, on one PostgreSQL and one Valkey:

    task.delay loop     `for n in connection.notifies(): task.delay(json.loads(n.payload))`
    pgnotifier          a Notifier with a CeleryDispatcher, one callback
    ready-made strings  the raw limit: a psycopg drain, and messages that are there already,
                        500 to a pipelined LPUSH

Another process queues all notifications in one transaction. The clock runs from the end of that
COMMIT until the last task is in the broker. The exit code is 1 if pgnotifier isn't at least
20 times as fast as the loop.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import psycopg
import redis
from celery import Celery
from rounds import Rates, print_rates, print_ratio, take_turns

CHANNEL, QUEUE = "bench", "celery"
LOOP, OURS, RAW = "task.delay loop", "pgnotifier", "ready-made strings"
FLOOR = 20.0
SHARE = {LOOP: 0.05, OURS: 1.0, RAW: 1.0}
"""Of the notifications, what each way is given: the loop would take minutes."""
RECEIVER_TIMEOUT = 120  # seconds


# --- a receiver, in a process of its own ---


def tell(value: object) -> None:
    print(json.dumps(value), flush=True)


def loop(app: Celery, dsn: str, count: int) -> None:
    @app.task(name="bench")
    def task(payload: object) -> None: ...

    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute(f"LISTEN {CHANNEL}")
    tell("ready")
    for number, arrived in enumerate(connection.notifies(), 1):
        task.delay(json.loads(arrived.payload))
        if number == count:
            return


def notifier(app: Celery, dsn: str, count: int) -> None:
    from pgnotifier import Notifier
    from pgnotifier.contrib.celery import CeleryDispatcher

    listening = Notifier(dsn, dispatcher=CeleryDispatcher(app), autorun=True)
    listening.subscribe("bench", CHANNEL, print)
    tell("ready")
    while sum(one.delivered for one in listening.status().dispatchers) < count:
        time.sleep(0.001)


def ready_made(app: Celery, dsn: str, count: int) -> None:
    client = redis.Redis.from_url(app.conf.broker_url)
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute(f"LISTEN {CHANNEL}")
    message = "x" * 1000  # about the size of a task's
    tell("ready")
    waiting = []
    for number, _ in enumerate(connection.notifies(), 1):
        waiting.append(message)
        if len(waiting) == 500 or number == count:
            with client.pipeline(transaction=False) as pipe:
                for one in waiting:
                    pipe.lpush(QUEUE, one)
                pipe.execute()
            waiting.clear()
        if number == count:
            return


def receive(name: str, dsn: str, broker: str, count: int) -> None:
    signal.alarm(RECEIVER_TIMEOUT)
    app = Celery("bench", broker=broker)
    {LOOP: loop, OURS: notifier, RAW: ready_made}[name](app, dsn, count)
    tell(time.monotonic())
    os._exit(0)


# --- the sender, and the comparison ---


def measure(name: str, dsn: str, broker: str, count: int) -> float:
    """Return the rate of one way, in tasks per second."""
    command = [sys.executable, __file__, "--receive", name, "-n", str(count)]
    with subprocess.Popen(
        [*command, "--dsn", dsn, "--broker", broker], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b'"ready"\n', f"{name} could not be started"
            committed_at = send(dsn, count)
            told = process.stdout.readline()
        finally:
            process.kill()
    assert told, f"{name} had not published everything after {RECEIVER_TIMEOUT} s"
    with redis.Redis.from_url(broker) as client:
        assert client.llen(QUEUE) == count, f"{name} lost or doubled something"
        client.flushdb()
    return count / (float(json.loads(told)) - committed_at)


def send(dsn: str, count: int) -> float:
    """Queue notifications in one transaction; return when it was committed."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "SELECT count(pg_notify(%s, json_build_object('order', n, 'item', 'tea', 'amount', 3)"
            "::text)) FROM generate_series(1, %s) AS n",
            (CHANNEL, count),
        )
        connection.commit()
        # The clock of time.monotonic() is the machine's, the same in every process.
        return time.monotonic()


def compare(rounds: int, count: int) -> Rates:
    from pgnotifier.testing import PostgresServer, ValkeyServer

    with PostgresServer() as server, server.database() as dsn, ValkeyServer() as valkey:
        return take_turns(
            [LOOP, OURS, RAW],
            rounds,
            lambda name: measure(name, dsn, valkey.url, max(1, int(count * SHARE[name]))),
        )


def report(rates: Rates) -> bool:
    """Print ratios and rates; return whether the floor is met."""
    met = print_ratio(rates, OURS, LOOP, FLOOR)
    print_ratio(rates, OURS, RAW)
    print_rates(rates)
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=100_000, help="notifications a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--receive", choices=[LOOP, OURS, RAW], help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    parser.add_argument("--broker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.receive:
        receive(given.receive, given.dsn, given.broker, given.count)
    sys.exit(0 if report(compare(given.rounds, given.count)) else 1)


if __name__ == "__main__":
    main()
