"""How fast notifications become tasks in the broker: `python benchmarks/broker.py`.

On Valkey, as Redis, and on RabbitMQ, with tasks that nobody takes:

    pgnotifier            a Notifier with a CeleryDispatcher, one callback
    task.delay loop       `for n in connection.notifies(): task.delay(json.loads(n.payload))`
    loop, one producer    the same with `task.apply_async(..., producer=producer)`
    loop, with confirms   on RabbitMQ: `task.delay` with `confirm_publish` switched on
    ready-made messages   the raw limit: strings that are there already, 500 to a pipelined LPUSH,
                          or published to RabbitMQ with the confirms awaited once per 5,000

pgnotifier has RabbitMQ confirm every task, and the other loops, with Celery's defaults, none.
To RabbitMQ all send as many: the longer its queue is, the slower it takes more.

Payloads are dicts of three; "nested" ones have a list in them.

Another process queues all notifications in one transaction. The clock runs from the end of that
COMMIT until the last task has been sent, and confirmed where that is asked for.
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
"""How many times less is sent to RabbitMQ, and by a loop to Redis: all would take minutes."""
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
        name: Which one.
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
            assert child.hear() == "ready"
            began = send(dsn, load)
            told = child.hear()
            found = count_messages(queue, load.count)
        queue.purge()
    assert found == load.count, f"{name}: {found} tasks of {load.count} notifications"
    return load.count / (float(told["finished_at"]) - began)


def count_messages(queue: Any, expected: int) -> int:
    """Return how many messages are in a queue, waiting for those that are on the way."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found: int = queue.queue_declare(passive=True).message_count
        if found >= expected or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


if __name__ == "__main__":
    run(__doc__, [benchmark])
