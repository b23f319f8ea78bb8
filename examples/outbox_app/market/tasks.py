"""The task of an order."""

from market.celery import app
from pgnotifier.contrib.celery import Once


@app.task(bind=True, base=Once, acks_late=True)
def invoice(self: Once, way: str, accident: str) -> None:
    """Invoice an order, once, however often the task arrives."""
    with self.once() as connection:
        connection.execute("INSERT INTO invoices (way, accident) VALUES (%s, %s)", (way, accident))
