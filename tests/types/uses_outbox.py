"""What users write with an outbox. Type checkers must accept it."""

import psycopg
from celery import Celery, Task
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from pgnotifier.contrib.celery import CeleryOutbox

app = Celery("shop")
outbox = CeleryOutbox(app, name="mail")


@app.task
def invoice(order: int) -> None:
    """Do nothing."""


def publish(connection: psycopg.Connection, task: "Task[..., None]") -> None:
    """Publish in the transaction of a connection, of a cursor, and of Django."""
    with outbox(connection):
        task.delay(1)
    with outbox(connection.cursor()), outbox("default"), outbox():
        task.delay(2)
    outbox.enqueue(connection, invoice, args=(3,), countdown=5)
    outbox.enqueue_many(connection, (task.s(n) for n in range(3)))


async def publish_later(connection: psycopg.AsyncConnection, task: "Task[..., None]") -> None:
    """Publish in the transaction of a connection for asyncio."""
    async with outbox(connection), outbox(connection.cursor()):
        task.delay(1)
    await outbox.aenqueue(connection, task.s(2))
    await outbox.aenqueue_many(connection, [task.s(3)])


def follow() -> None:
    """Follow sessions of SQLAlchemy."""
    following = outbox.follow(sessionmaker(), bind_arguments={"mapper": int})
    following.undo()
    with outbox.follow(Session, exclude=["vendor.*"]), outbox.follow(async_sessionmaker()):
        invoice.delay(1)
