"""A shop with RQ; its workers and listeners run as processes."""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from shops import Shop

BIN = Path(sys.executable).parent


class RQShop(Shop):
    """A directory with a module that uses RQ, and the processes that run it."""

    START = """
import os
import redis
from rq import Callback, Queue, Retry, get_current_job
from pgnotifier import InlineDispatcher, Notifier
from pgnotifier.contrib.rq import RQDispatcher

book = redis.Redis.from_url(os.environ["BROKER"])
queue = Queue(os.environ["QUEUE"], connection=book)
notifier = Notifier(os.environ["DSN"], dispatcher=RQDispatcher(queue))

def write(what, *facts):
    book.rpush(os.environ["QUEUE"] + ":" + what, ascii(facts))
"""

    def rq(self, command, *args, **env):
        """Start a command of RQ on the shop's queue."""
        url = ("--url", self.env["BROKER"])
        return self.run(str(BIN / "rq"), command, *url, *args, self.queue, **env)

    def worker(self, *args, **env):
        """Start a worker, and wait until it is ready."""
        worker = self.rq("worker", *args, **env)
        worker.wait_for("Listening on ")
        return worker

    def listener(self, *args, **env):
        """Start a listener, and wait until it listens."""
        listener = self.pgnotifier("listen", "shop", *args, **env)
        listener.wait_for("listening ")
        return listener

    def pgnotifier(self, *args, **env):
        """Start a command of pgnotifier."""
        return self.run(str(BIN / "pgnotifier"), *args, **env)


@pytest.fixture
def open_shop(pgnotifier_dsn, broker, tmp_path, preforked):
    """Yield a function that makes a shop from the source of its module."""
    with ExitStack() as stack:

        def open_shop(source, broker=broker):
            shop = RQShop(
                tmp_path, source, dsn=pgnotifier_dsn, broker=broker, start=preforked.start
            )
            stack.callback(shop.close)
            return shop

        yield open_shop
