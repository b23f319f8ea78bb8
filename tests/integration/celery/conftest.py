"""A shop with a Celery app; its workers and listeners run as processes."""

import secrets
import sys
from contextlib import ExitStack

import pytest
from shops import Shop


class CeleryShop(Shop):
    """A directory with the module of a Celery app, and the processes that run it."""

    START = """
import os
import redis
from celery import Celery, chain, chord, group, current_task, shared_task
from pgnotifier import InlineDispatcher, Notifier
from pgnotifier.contrib.celery import CeleryDispatcher

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(task_default_queue=os.environ["QUEUE"], broker_connection_retry_on_startup=True)
book = redis.Redis.from_url(os.environ["BROKER"])

def write(what, *facts):
    book.rpush(os.environ["QUEUE"] + ":" + what, ascii(facts))
"""

    def celery(self, *args, **env):
        """Start a celery command."""
        return self.run(sys.executable, "-m", "celery", "-A", "shop", *args, **env)

    def worker(self, *args, **env):
        """Start a worker, and wait until it is ready."""
        worker = self.celery(
            *("worker", "-l", "INFO", "-n", f"{secrets.token_hex(4)}@shop"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *(args or ("-P", "solo")),
            **env,
        )
        worker.wait_for(" ready.")
        return worker

    def listener(self, *args, notifiers=1, **env):
        """Start a listener, and wait until all its notifiers listen."""
        listener = self.celery("pgnotifier", *args, **env)
        listener.wait_for("listening ", notifiers)
        return listener


@pytest.fixture
def open_shop(pgnotifier_dsn, broker, tmp_path, preforked):
    """Yield a function that makes a shop from the source of its module."""
    with ExitStack() as stack:

        def open_shop(
            source, dsn=pgnotifier_dsn, broker=broker, name="shop", start=preforked.start
        ):
            directory = tmp_path / name
            directory.mkdir()
            shop = CeleryShop(directory, source, dsn=dsn, broker=broker, start=start)
            stack.callback(shop.close)
            return shop

        yield open_shop


@pytest.fixture(scope="module")
def open_module_shop(pgnotifier_postgres, broker, tmp_path_factory, preforked):
    """Yield a function like `open_shop`, for a shop that the tests of a module share."""
    with ExitStack() as stack:
        dsn = stack.enter_context(pgnotifier_postgres.database())

        def open_shop(source):
            directory = tmp_path_factory.mktemp("shop")
            shop = CeleryShop(directory, source, dsn=dsn, broker=broker, start=preforked.start)
            stack.callback(shop.close)
            return shop

        yield open_shop
