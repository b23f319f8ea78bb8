"""Turn notifications into Celery tasks in several ways, each in its own process."""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import amqp
import psycopg
import redis
from bench_app import BROKER, CHANNEL, DSN, app, notifier, task
from children import end_with_parent, finish, write_message
from kombu.utils.url import parse_url
from names import CONFIRMED, LOOP, OURS, RAW, SHARED

MESSAGE = "x" * 1000  # about the size of a task's
REDIS_BATCH, AMQP_BATCH = 500, 5000


def listen(count: int) -> Iterator[psycopg.Notify]:
    """Listen, report that to the parent, and yield `count` notifications."""
    connection = psycopg.connect(DSN, autocommit=True)
    connection.execute(f"LISTEN {CHANNEL}".encode())
    write_message("ready")
    for number, arrived in enumerate(connection.notifies(), 1):
        yield arrived
        if number == count:
            return


def call_delay(count: int) -> None:
    for arrived in listen(count):
        task.delay(json.loads(arrived.payload))


def call_delay_and_confirm(count: int) -> None:
    app.conf.broker_transport_options = {"confirm_publish": True}
    call_delay(count)


def share_producer(count: int) -> None:
    with app.producer_or_acquire() as producer:
        for arrived in listen(count):
            task.apply_async((json.loads(arrived.payload),), producer=producer)


def subscribe(count: int) -> None:
    notifier.start()
    write_message("ready")
    while sum(one.delivered for one in notifier.status().dispatchers) < count:
        time.sleep(0.001)


def push_ready_made(count: int) -> None:
    """Send ready-made messages: the limit of the broker, of psycopg and of this machine."""
    redis_like = BROKER.startswith("redis")
    push, batch = (_push_redis(), REDIS_BATCH) if redis_like else (_push_amqp(), AMQP_BATCH)
    waiting = 0
    for number, _ in enumerate(listen(count), 1):
        waiting += 1
        if waiting == batch or number == count:
            push(waiting)
            waiting = 0


def _push_redis() -> Callable[[int], None]:
    client = redis.Redis.from_url(BROKER)

    def push(count: int) -> None:
        with client.pipeline(transaction=False) as pipe:
            for _ in range(count):
                pipe.lpush("celery", MESSAGE)
            pipe.execute()

    return push


def _push_amqp() -> Callable[[int], None]:
    parts = parse_url(BROKER)
    connection = amqp.Connection(
        f"{parts['hostname']}:{parts['port']}", parts["userid"], parts["password"]
    )
    connection.connect()
    channel: Any = connection.channel()
    channel.confirm_select()
    unconfirmed: dict[int, None] = {}  # in the order of their tags
    tags = itertools.count(1)

    def confirm(tag: int, multiple: bool) -> None:
        earlier = itertools.takewhile(lambda one: one <= tag, unconfirmed)
        for one in [*earlier] if multiple else [tag]:
            del unconfirmed[one]

    channel.events["basic_ack"].add(confirm)

    def push(count: int) -> None:
        for _ in range(count):
            channel.basic_publish(amqp.Message(MESSAGE, delivery_mode=2), "celery", "celery")
            unconfirmed[next(tags)] = None
        while unconfirmed:
            connection.drain_events(timeout=30)

    return push


PUBLISHERS: Mapping[str, Callable[[int], None]] = {
    OURS: subscribe,
    LOOP: call_delay,
    SHARED: share_producer,
    CONFIRMED: call_delay_and_confirm,
    RAW: push_ready_made,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=PUBLISHERS)
    parser.add_argument("count", type=int, help="of notifications, after which it ends")
    given = parser.parse_args()
    end_with_parent()
    PUBLISHERS[given.name](given.count)
    write_message({"finished_at": time.monotonic()})
    finish()


if __name__ == "__main__":
    main()
