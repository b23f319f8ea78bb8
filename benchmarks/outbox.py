"""Measure how fast an outbox is relayed to the broker: `python benchmarks/outbox.py`.

With Valkey as Redis, and with RabbitMQ; no worker executes the tasks. All of it was committed
before, each task in a transaction of its own, on a server that waits for the disk (`fsync` is on).
The time is measured from when the relay begins to read until the last message is in the queue.

    pgnotifier             a Notifier with an OutboxDispatcher
    ready-made messages    texts that are there already, with an LPUSH each, 500 to a pipeline
    ready-made, many each  the raw limit: the same, with one LPUSH for 500
    django-celery-outbox   its relay, with batches of 1,000
    task.delay loop        on RabbitMQ: `delay` again and again, which RabbitMQ doesn't confirm

The packages' tasks are fewer, because all would take minutes.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import redis
from celery import Celery
from children import Child
from commandline import Settings, run
from durable_queues import START
from names import DJANGO_OUTBOX, LOOP, OURS, RAW, RAW_MANY
from outbox_made import CHANNEL, FILL, make_message
from results import Limit, Section, compare
from rounds import take_turns
from servers import Servers

from pgnotifier import durable

COUNT = 50_000
FEWER = 20
"""django-celery-outbox and RabbitMQ get the count divided by this."""
TIMEOUT = 120  # seconds
REDIS_LIMITS = {RAW: Limit(0.5), DJANGO_OUTBOX: Limit(30.0)}
AMQP_LIMITS = {LOOP: Limit(4.0)}


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the relays on each broker."""
    dsn, count = servers.durable_dsn, settings.count(COUNT)
    fewer = max(1, count // FEWER)
    with psycopg.connect(dsn) as connection:
        durable.install(connection)

    def into_redis(name: str) -> float:
        return measure(name, dsn, servers.redis_url, fewer if name == DJANGO_OUTBOX else count)

    names = [OURS, RAW, RAW_MANY, DJANGO_OUTBOX]
    rates = take_turns(names, settings.rounds, into_redis)
    sections = [compare("an outbox into Redis", "a second", rates, OURS, REDIS_LIMITS)]
    url = servers.amqp_url
    if url is not None:
        rates = take_turns(
            [OURS, LOOP], settings.rounds, lambda name: measure(name, dsn, url, fewer * 4)
        )
        sections.append(compare("an outbox into RabbitMQ", "a second", rates, OURS, AMQP_LIMITS))
    return sections


def measure(name: str, dsn: str, url: str, count: int) -> float:
    """Return how many messages a second get to the broker.

    Args:
        name: What sends them.
        dsn: The database.
        url: The broker.
        count: How many.
    """
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": url}
    if name == OURS:
        fill(dsn, count)
    elif name == DJANGO_OUTBOX:
        with Child("outbox_relays.py", FILL, count, env=env) as child:
            assert child.read_message() == "filled"
    with Celery("bench", broker=url) as app, app.connection() as connection, ExitStack() as stack:
        queue = app.amqp.queues["celery"].bind(connection.default_channel)
        queue.declare()
        queue.purge()
        count_messages = counter(url, queue)
        start = stack.enter_context(psycopg.connect(dsn))
        start.execute("SELECT pg_advisory_lock(%s)", (START,))
        child = stack.enter_context(Child("outbox_relays.py", name, count, env=env))
        assert child.read_message() == "ready"
        before = count_messages()  # `delay` has been called once to connect
        began = time.monotonic()
        start.close()
        found = wait_for(count_messages, count)
        seconds = time.monotonic() - began
        queue.purge()
    assert found == count, f"{name}: {found} tasks of {count}"
    return (count - before) / seconds


def fill(dsn: str, count: int) -> None:
    """Put messages into the outbox, each in a transaction of its own."""
    text = make_message("TASK-ID", "TASK-TAG").replace("'", "''")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM pgnotifier.subscription")
        connection.execute("TRUNCATE pgnotifier.log CASCADE")
        connection.execute("SELECT pgnotifier.subscribe('outbox:celery:bench', %s)", (CHANNEL,))
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            f"DO $$ BEGIN FOR n IN 1..{count} LOOP "
            "INSERT INTO pgnotifier.log (channel, key, payload) "
            f"VALUES ('{CHANNEL}', E'\\x1fcelery\\x1f0', replace(replace('{text}', "
            "'TASK-ID', gen_random_uuid()::text), 'TASK-TAG', gen_random_uuid()::text)); "
            "COMMIT; END LOOP; END $$".encode()
        )
        connection.execute("CHECKPOINT")


def counter(url: str, queue: Any) -> Callable[[], int]:
    """Return a function that counts the messages in the queue."""
    if url.startswith("redis"):
        broker: Any = redis.Redis.from_url(url)
        return lambda: int(broker.llen("celery"))
    return lambda: int(queue.queue_declare(passive=True).message_count)


def wait_for(count_messages: Callable[[], int], expected: int) -> int:
    """Return how many messages are in the queue once they are all there, or after two minutes."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = count_messages()
        if found >= expected or time.monotonic() > deadline:
            return found
        time.sleep(0.002)


if __name__ == "__main__":
    run(__doc__, [benchmark])
