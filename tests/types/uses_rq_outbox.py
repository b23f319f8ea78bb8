"""What users write with an outbox of RQ. Type checkers must accept it."""

from datetime import UTC, datetime, timedelta

import psycopg
from redis import Redis
from rq import Queue
from rq.job import Job

from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQOutbox

outbox = RQOutbox(Queue(connection=Redis()), name="mail")
others = (RQOutbox(Redis()), RQOutbox("redis://localhost"))


def invoice(order: int, copies: int = 1) -> None:
    """Do nothing."""


def enqueue(connection: psycopg.Connection) -> Job:
    """Enqueue in the transaction of a connection, of a cursor, and of Django."""
    first: Job = outbox.enqueue(connection, invoice, 1, copies=2, job_timeout=60)
    outbox.enqueue(connection.cursor(), "shop.jobs.ship", 1, depends_on=first)
    outbox.to("low").enqueue(None, invoice, 1)
    outbox.enqueue_at("default", datetime.now(UTC), invoice, 1)
    outbox.enqueue_in(connection, timedelta(minutes=1), invoice, 1)
    many: list[Job] = outbox.enqueue_many(
        connection, (Queue.prepare_data(invoice, args=(n,)) for n in range(3))
    )
    return many[0]


async def enqueue_on_asyncio(connection: psycopg.AsyncConnection) -> Job:
    """Enqueue on a connection for asyncio."""
    await outbox.aenqueue_at(connection, datetime.now(UTC), invoice, 1)
    await outbox.aenqueue_in(connection, timedelta(minutes=1), invoice, 1)
    await outbox.aenqueue_many(connection, [Queue.prepare_data(invoice)])
    return await outbox.aenqueue(connection, invoice, 1)


def relay(notifier: Notifier) -> None:
    """Have a notifier relay an outbox."""
    outbox.relay_to(notifier, allow=["shop.jobs.resize"])
