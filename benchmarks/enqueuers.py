"""Enqueuers: each way to make RQ jobs of notifications, as a process of its own."""

import argparse
import json
import time
from collections.abc import Callable, Mapping

import psycopg
from bench_jobs import CHANNEL, DSN, notifier, queue, work
from children import end_with_parent, finish, tell
from names import ENQUEUE, ENQUEUE_MANY, OURS

BATCH = 500


def enqueue(count: int) -> None:
    connection = hear()
    for number, arrived in enumerate(connection.notifies(), 1):
        queue.enqueue(work, json.loads(arrived.payload))
        if number == count:
            return


def enqueue_many(count: int) -> None:
    """Collect what has arrived, up to a number, and enqueue it together."""
    connection = hear()
    while count:
        some = [json.loads(one.payload) for one in connection.notifies(timeout=0, stop_after=BATCH)]
        some = some[:count]
        if some:
            queue.enqueue_many([queue.prepare_data(work, args=(payload,)) for payload in some])
            count -= len(some)


def subscribe(count: int) -> None:
    notifier.start()
    tell("ready")
    while sum(one.delivered for one in notifier.status().dispatchers) < count:
        time.sleep(0.001)


def hear() -> psycopg.Connection:
    """Listen, and say so."""
    connection = psycopg.connect(DSN, autocommit=True)
    connection.execute(f"LISTEN {CHANNEL}".encode())
    tell("ready")
    return connection


ENQUEUERS: Mapping[str, Callable[[int], None]] = {
    OURS: subscribe,
    ENQUEUE: enqueue,
    ENQUEUE_MANY: enqueue_many,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=ENQUEUERS)
    parser.add_argument("count", type=int, help="of notifications, after which it ends")
    given = parser.parse_args()
    end_with_parent()
    ENQUEUERS[given.name](given.count)
    tell({"finished_at": time.monotonic()})
    finish()


if __name__ == "__main__":
    main()
