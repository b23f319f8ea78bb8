"""Measure what a task in RabbitMQ costs: `python benchmarks/rabbitmq.py`.

pgnotifier stamps the AMQP frames itself. It is compared to the same listener with the same batched
confirms, which publishes each message with kombu's producer, but without declarations and retries,
which only the first message needs. The CPU time of the listening process is compared.
"""

import functools
from typing import Any

from celery import Celery
from children import Child
from commandline import Settings, run
from names import KOMBU, OURS
from results import Limit, Row, Section
from rounds import divide, take_turns
from sending import Load, name_channels, send
from servers import Servers

COUNT = 20_000
LEAST = Limit(1.3)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare stamped frames with kombu's producer, if there is a RabbitMQ."""
    url = servers.amqp_url
    if url is None:
        return []
    load = Load(settings.count(COUNT))
    cpu = take_turns(
        [OURS, KOMBU], settings.rounds, functools.partial(_measure, servers.dsn, url, load)
    )
    rows = [
        Row(OURS, cpu[OURS], divide(cpu[KOMBU], cpu[OURS]), LEAST),
        Row(KOMBU, cpu[KOMBU]),
    ]
    return [Section("messages in RabbitMQ", "CPU microseconds a task", f"{KOMBU} / each", rows)]


def _measure(dsn: str, url: str, load: Load, name: str) -> float:
    """Return the CPU time of one listener, in microseconds for each notification."""
    options = ("--kombu",) if name == KOMBU else ()
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": url}
    with Child("queuers.py", "celery", load.channels, load.count, *options, env=env) as child:
        assert child.read_message() == "ready"
        send(dsn, load)
        result = child.read_message()
    (queue,) = name_channels(load.channels)
    with Celery(broker=url).connection_for_write() as connection:
        channel: Any = connection.default_channel
        found = channel.queue_delete(queue)
    assert found == load.count, f"{name}: {found} in the queue, of {load.count} notifications"
    return 1e6 * float(result["cpu"]) / load.count


if __name__ == "__main__":
    run(__doc__, [benchmark])
