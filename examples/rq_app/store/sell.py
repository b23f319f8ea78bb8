"""Sell books, also to customers with cards that are refused: `python -m store.sell`."""

from contextlib import suppress

import psycopg

from store.settings import DSN
from store.shipping import outbox, queue, ship


class CardRefusedError(Exception):
    """The bank doesn't pay, so there is no sale."""


with psycopg.connect(DSN, autocommit=True) as connection:
    for number in range(1, 21):
        with suppress(CardRefusedError), connection.transaction():
            [(sale,)] = connection.execute(
                "INSERT INTO sales (item) VALUES (%s) RETURNING id", (f"book {number}",)
            ).fetchall()
            with outbox(connection):
                queue.enqueue(ship, sale)
            if number % 2:
                raise CardRefusedError
print("20 sales, 10 of them rolled back")
