"""Turn notifications into RQ jobs in several ways, each in its own process."""

import argparse
import json
import time
from collections.abc import Callable, Mapping

import psycopg
from bench_jobs import CHANNEL, DSN, notifier, queue, work
from children import end_with_parent, finish, write_message
from names import ENQUEUE, ENQUEUE_MANY, OURS

BATCH = 500


def enqueue(count: int) -> None:
    connection = listen()
    for number, arrived in enumerate(connection.notifies(), 1):
        queue.enqueue(work, json.loads(arrived.payload))
        if number == count:
            return


def enqueue_many(count: int) -> None:
    """Collect notifications that have arrived, up to a number, and enqueue them together."""
    connection = listen()
    while count:
        some = [json.loads(one.payload) for one in connection.notifies(timeout=0, stop_after=BATCH)]
        some = some[:count]
        if some:
            queue.enqueue_many([queue.prepare_data(work, args=(payload,)) for payload in some])
            count -= len(some)


def subscribe(count: int) -> None:
    notifier.start()
    write_message("ready")
    while sum(one.delivered for one in notifier.status().dispatchers) < count:
        time.sleep(0.001)


def listen() -> psycopg.Connection:
    """Listen, and report that to the parent."""
    connection = psycopg.connect(DSN, autocommit=True)
    connection.execute(f"LISTEN {CHANNEL}".encode())
    write_message("ready")
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
    write_message({"finished_at": time.monotonic()})
    finish()


if __name__ == "__main__":
    main()
