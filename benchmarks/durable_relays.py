"""Send what was published durably to the broker, as Celery messages: one relay, in its own process.

The messages of all relays but one are made and sent by the same CeleryDispatcher. The outbox and
pgnotifier hand it batches, and delete or save what is sent afterwards. The packages call a function
for each job. Here it only appends the payload to a list, which is sent 500 at a time. That loses
something in a crash, but is faster than sending them one by one.
"""

import argparse
import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg
from celery import Celery
from children import end_with_parent, write_message
from durable_queues import CHANNEL, START, TAKE, connect_asyncpg, set_up_django
from names import OURS, OUTBOX, OUTBOX_APPLY, PGPUBSUB, PGQUEUER, PROCRASTINATE
from work import work

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.dispatch import Batch, Binding, Delivery, Subscription
from pgnotifier.notification import Notification

DSN = os.environ["BENCH_DSN"]
BATCH = 1000
SOME = 500
"""How many messages are sent together for the packages."""


def wait_for_start() -> None:
    """Report that this process is ready, and wait until the parent lets all of them begin."""
    write_message("ready")
    with psycopg.connect(DSN) as connection:
        connection.execute("SELECT pg_advisory_lock_shared(%s)", (START,))


class Sender:
    """Sends payloads as Celery messages, as pgnotifier does it."""

    def __init__(self, dispatcher: CeleryDispatcher, count: int) -> None:
        self._dispatcher = dispatcher
        self._left = count
        subscription = Subscription("bench", CHANNEL, work, dispatcher)
        self._binding = Binding(subscription, dispatcher.bind(subscription), self._fail)
        self._waiting: list[str] = []

    def send(self, payloads: list[str]) -> None:
        """Send a message for each payload."""
        now = datetime.now(UTC)
        self._dispatcher.dispatch(
            Batch(
                Delivery(self._binding, Notification(CHANNEL, json.loads(one), one, 0, now))
                for one in payloads
            )
        )

    def add(self, payload: str) -> None:
        """Send a message for a payload, together with some others."""
        self._waiting.append(payload)
        self._left -= 1
        if self._left == 0 or len(self._waiting) == SOME:
            self.send(self._waiting)
            self._waiting = []

    @staticmethod
    def _fail(exc: BaseException, *_: object) -> None:
        raise exc


def relay_log(dispatcher: CeleryDispatcher, _: int, subscriptions: int) -> None:
    """Have a notifier deliver. Other processes may do so for the same subscriptions."""
    with Notifier(DSN, dispatcher=dispatcher) as notifier:
        wait_for_start()
        for number in range(subscriptions):
            notifier.subscribe(f"bench{number}", CHANNEL, work, durable=True, start="oldest")
        notifier.start()
        threading.Event().wait()


def relay_outbox(dispatcher: CeleryDispatcher, count: int, _: int) -> None:
    """Take a batch, send it, and commit, again and again."""
    take_all(Sender(dispatcher, count).send)


def relay_by_celery(dispatcher: CeleryDispatcher, *_: int) -> None:
    """Do the same, as it is written by hand: Celery makes and sends each message."""
    app: Any = dispatcher.app
    task = app.task(work, name="bench", ignore_result=True)
    with app.producer_pool.acquire(block=True) as producer:

        def send(payloads: list[str]) -> None:
            for one in payloads:
                task.apply_async(("bench", CHANNEL, json.loads(one), 0), producer=producer)

        take_all(send)


def take_all(send: Callable[[list[str]], None]) -> None:
    """Take payloads out of the outbox, and delete them once they are sent."""
    with psycopg.connect(DSN, autocommit=True) as connection:
        wait_for_start()
        while True:
            with connection.transaction():
                rows = connection.execute(TAKE.format(limit=BATCH).encode()).fetchall()
                send([payload for _, payload in sorted(rows)])
            if not rows:
                time.sleep(0.01)


def relay_pgqueuer(dispatcher: CeleryDispatcher, count: int, _: int) -> None:
    """Run its worker, with batches as large as pgnotifier's."""
    from pgqueuer import AsyncpgDriver, Job, PgQueuer

    sender = Sender(dispatcher, count)

    async def run() -> None:
        worker = PgQueuer(AsyncpgDriver(await connect_asyncpg(DSN)))

        @worker.entrypoint(CHANNEL)
        async def send(job: Job) -> None:
            assert job.payload is not None
            sender.add(job.payload.decode())

        wait_for_start()
        await worker.run(batch_size=BATCH)

    asyncio.run(run())


def relay_procrastinate(dispatcher: CeleryDispatcher, count: int, _: int) -> None:
    """Run its worker, with ten jobs at a time."""
    from procrastinate import App, PsycopgConnector

    sender = Sender(dispatcher, count)
    app = App(connector=PsycopgConnector(conninfo=DSN))

    @app.task(name=CHANNEL)
    async def send(**payload: Any) -> None:
        sender.add(json.dumps(payload))

    async def run() -> None:
        async with app.open_async():
            wait_for_start()
            await app.run_worker_async(concurrency=10)

    asyncio.run(run())


def relay_pgpubsub(dispatcher: CeleryDispatcher, count: int, _: int) -> None:
    """Run its listener, which first processes what has been stored."""
    set_up_django(DSN)
    from pgpubsub.listen import listen
    from pgpubsub_channels import Orders

    sender = Sender(dispatcher, count)

    def send(**payload: Any) -> None:
        sender.add(json.dumps(payload))

    Orders.register(send)
    wait_for_start()
    listen(["pgpubsub_channels.Orders"], recover=True, autorestart_on_failure=False)


RELAYS: Mapping[str, Callable[[CeleryDispatcher, int, int], None]] = {
    OURS: relay_log,
    OUTBOX: relay_outbox,
    OUTBOX_APPLY: relay_by_celery,
    PGQUEUER: relay_pgqueuer,
    PROCRASTINATE: relay_procrastinate,
    PGPUBSUB: relay_pgpubsub,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=RELAYS)
    parser.add_argument("count", type=int, help="of messages")
    parser.add_argument("subscriptions", type=int)
    given = parser.parse_args()
    end_with_parent()
    dispatcher = CeleryDispatcher(Celery("bench", broker=os.environ["BENCH_BROKER"]))
    RELAYS[given.name](dispatcher, given.count, given.subscriptions)


if __name__ == "__main__":
    main()
