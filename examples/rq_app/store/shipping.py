"""What is sold is shipped by an RQ job, which an outbox makes a part of the sale."""

from redis import Redis
from rq import Queue

from pgnotifier.contrib.rq import RQOutbox
from store.database import execute
from store.settings import REDIS

queue = Queue("default", connection=Redis.from_url(REDIS))
outbox = RQOutbox(queue)


def ship(sale: int) -> None:
    """Ship what was sold."""
    execute("INSERT INTO shipments (sale) VALUES (%s)", (sale,))
