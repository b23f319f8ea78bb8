"""The processes that take orders and enqueue jobs of RQ for them, and relay these, and are killed.

See `tests.faults.shopping`.
"""

import sys
from functools import partial

import psycopg
from redis import Redis
from rq import Queue

from pgnotifier import Notifier
from pgnotifier.contrib.rq import RQOutbox
from tests.faults.killed import kill_at_random
from tests.faults.shopping import Web, stepping_web, web

SCRIPT = "from tests.faults.rq_shopping import main; main()"


class RQWeb(Web):
    """A web process: it takes orders, half of which are rolled back."""

    def __init__(self, dsn, broker, way):
        self._queue = Queue(way, connection=Redis.from_url(broker))
        self._outbox = RQOutbox(self._queue)
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("SET synchronous_commit = off")
        self._way = way
        self._errors = () if way == "outbox" else (Exception,)
        self._take = getattr(self, f"_take_{way}")

    def _publish(self, number):
        name = f"{self._way}-{number}"
        self._queue.enqueue("shop.invoice", self._way, number, job_id=name)


def relay(dsn, broker, seconds):
    """Relay in processes that are killed at random, after so many seconds at most."""
    kill_at_random(partial(_relay, dsn, broker), 1, float(seconds))


def _relay(dsn, broker, tick):
    notifier = Notifier(dsn, wait=True)
    RQOutbox(broker).relay_to(notifier)
    notifier.start()
    tick()
    notifier.wait()


def main():
    """Run what the arguments say."""
    dsn, name, *arguments = sys.argv[1:]
    kinds = {
        "web": partial(web, make=RQWeb),
        "stepping_web": partial(stepping_web, make=RQWeb),
        "relay": relay,
    }
    kinds[name](dsn, *arguments)
