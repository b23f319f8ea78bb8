"""Enqueue RQ jobs in transactions, after them, by a relay or in a loop, in a process of its own."""

import os
import sys
import threading
import time

import psycopg
from children import end_with_parent, write_message
from durable_relays import wait_for_start
from names import ENQUEUE, OURS
from outbox_made import ARGUMENTS
from redis import Redis
from rq import Queue

from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQOutbox

DSN, BROKER = os.environ["BENCH_DSN"], os.environ["BENCH_BROKER"]
WORK = "bench_jobs.work"


def commit(queue: Queue, outbox: RQOutbox, count: int, *, in_block: bool) -> None:
    """Make transactions with a row and a job each; report how long they took."""
    with psycopg.connect(DSN, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS sold (n int)")
        empty(connection)
        queue.enqueue(WORK, *ARGUMENTS)
        outbox.enqueue(connection, WORK, *ARGUMENTS)  # by now, the outbox is open
        began = time.perf_counter()
        for number in range(count):
            with connection.transaction():
                connection.execute("INSERT INTO sold VALUES (%s)", (number,))
                if in_block:
                    with outbox(connection):
                        queue.enqueue(WORK, *ARGUMENTS)
            if not in_block:
                queue.enqueue(WORK, *ARGUMENTS)
        write_message(time.perf_counter() - began)


def fill(outbox: RQOutbox, count: int) -> None:
    """Put jobs into the outbox."""
    with psycopg.connect(DSN, autocommit=True) as connection:
        empty(connection)
        jobs = (Queue.prepare_data(WORK, args=ARGUMENTS) for _ in range(count))
        outbox.enqueue_many(connection, jobs)
    write_message("filled")


def empty(connection: psycopg.Connection) -> None:
    """Remove all that is in the log."""
    connection.execute("DELETE FROM pgnotifier.subscription")
    connection.execute("TRUNCATE pgnotifier.log CASCADE")


def relay(outbox: RQOutbox) -> None:
    """Relay with a notifier."""
    with Notifier(DSN) as notifier:
        outbox.relay_to(notifier)
        wait_for_start()
        notifier.start()
        threading.Event().wait()


def loop(queue: Queue, count: int) -> None:
    """Enqueue one job after the other."""
    wait_for_start()
    for _ in range(count):
        queue.enqueue(WORK, *ARGUMENTS)


def main() -> None:
    """Do what the parent asks for."""
    name, count = sys.argv[1], int(sys.argv[2])
    end_with_parent()
    with Redis.from_url(BROKER) as client:
        queue = Queue("bench", connection=client)
        outbox = RQOutbox(queue)
        match name:
            case "fill":
                fill(outbox, count)
            case str() if name == OURS:
                relay(outbox)
            case str() if name == ENQUEUE:
                loop(queue, count)
            case _:
                commit(queue, outbox, count, in_block=name.endswith(OURS))


if __name__ == "__main__":
    main()
