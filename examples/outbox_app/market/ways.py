"""Three ways to place an order with its task, each with the moments at which something happens."""

from typing import Any

import psycopg

from market.accidents import Moments
from market.celery import outbox
from market.tasks import invoice

INSERT = "INSERT INTO orders (way, accident) VALUES (%s, %s)"
Connection = psycopg.Connection[Any]


def delay_in_transaction(connection: Connection, accident: str, moments: Moments) -> None:
    """Send the task within the transaction."""
    order = ("delay()", accident)
    with connection.transaction():
        connection.execute(INSERT, order)
        moments.reach("after the insert")
        invoice.delay(*order)
        moments.reach("before the commit")
    moments.reach("after the commit")


def delay_after_commit(connection: Connection, accident: str, moments: Moments) -> None:
    """Send the task once the transaction has committed, as Celery's `delay_on_commit` does."""
    order = ("after commit", accident)
    with connection.transaction():
        connection.execute(INSERT, order)
        moments.reach("after the insert")
        moments.reach("before the commit")
    moments.reach("after the commit")
    invoice.delay(*order)


def use_outbox(connection: Connection, accident: str, moments: Moments) -> None:
    """Make the task a part of the transaction."""
    order = ("outbox", accident)
    with connection.transaction():
        connection.execute(INSERT, order)
        moments.reach("after the insert")
        with outbox(connection):
            invoice.delay(*order)
        moments.reach("before the commit")
    moments.reach("after the commit")


WAYS = (delay_in_transaction, delay_after_commit, use_outbox)
