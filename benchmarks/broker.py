"""Measure how fast notifications become tasks in the broker: `python benchmarks/broker.py`.

With Valkey as Redis, and with RabbitMQ. No worker executes the tasks.

    pgnotifier            a Notifier with a CeleryDispatcher, one callback
    task.delay loop       `for n in connection.notifies(): task.delay(json.loads(n.payload))`
    loop, one producer    the same with `task.apply_async(..., producer=producer)`
    loop, with confirms   on RabbitMQ: `task.delay` with `confirm_publish` switched on
    ready-made messages   the raw limit: strings that are there already, 500 to a pipelined LPUSH,
                          or published to RabbitMQ with the confirms awaited once per 5,000

With pgnotifier, RabbitMQ confirms every task. With the other loops and Celery's defaults, it
confirms none. All send the same number to RabbitMQ, because it slows down as its queue grows.

Payloads are dicts with three keys; "nested" ones contain a list.

Another process sends all notifications in one transaction. The time is measured from the end of
that COMMIT until the last task has been sent, and confirmed if confirms are enabled.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from celery import Celery
from children import Child
from commandline import Settings, run
from names import CONFIRMED, LOOP, OURS, RAW, SHARED
from results import Limit, Section, compare
from rounds import take_turns
from sending import Load, name_channels, send
from servers import Servers

COUNT = 100_000
FEWER = 20
"""Loops and RabbitMQ get the count divided by this, because all would take minutes."""
REDIS_LIMITS = {LOOP: Limit(20.0), RAW: Limit(1 / 3)}
AMQP_LIMITS = {LOOP: Limit(4.0)}
TIMEOUT = 30  # seconds


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the publishers on each broker."""
    everyone, some = [OURS, LOOP, SHARED, RAW], [OURS, LOOP]
    flat = Load(settings.count(COUNT))
    nested = replace(flat, nested=True)
    fewer = replace(flat, count=max(1, flat.count // FEWER))
    sections = []

    def compare_with(
        title: str, url: str, load: Load, names: list[str], limits: Mapping[str, Limit]
    ) -> None:
        less = replace(load, count=fewer.count)
        loads = {OURS: load, LOOP: less, SHARED: less, CONFIRMED: less, RAW: load}
        rates = take_turns(
            names, settings.rounds, lambda name: measure(name, servers.dsn, url, loads[name])
        )
        sections.append(compare(title, "a second", rates, OURS, limits))

    compare_with("tasks in Redis", servers.redis_url, flat, everyone, REDIS_LIMITS)
    compare_with("tasks in Redis, of nested payloads", servers.redis_url, nested, some, {})
    if servers.amqp_url is not None:
        compare_with(
            "tasks in RabbitMQ", servers.amqp_url, fewer, [*everyone, CONFIRMED], AMQP_LIMITS
        )
    return sections


def measure(name: str, dsn: str, url: str, load: Load) -> float:
    """Return the rate of one publisher, in tasks per second.

    Args:
        name: Its name.
        dsn: The database.
        url: The broker.
        load: What to send.
    """
    (channel,) = name_channels(1)
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": url, "BENCH_CHANNEL": channel}
    with Celery("bench", broker=url) as app, app.connection() as connection:
        queue = app.amqp.queues["celery"].bind(connection.default_channel)
        queue.declare()
        with Child("publishers.py", name, load.count, env=env) as child:
            assert child.read_message() == "ready"
            began = send(dsn, load)
            result = child.read_message()
            found = count_messages(queue, load.count)
        queue.purge()
    assert found == load.count, f"{name}: {found} tasks of {load.count} notifications"
    return load.count / (float(result["finished_at"]) - began)


def count_messages(queue: Any, expected: int) -> int:
    """Return how many messages are in a queue, after those that are still being sent arrive."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found: int = queue.queue_declare(passive=True).message_count
        if found >= expected or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


if __name__ == "__main__":
    run(__doc__, [benchmark])
