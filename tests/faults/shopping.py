"""The processes of a shop, which are killed: they take orders, relay, and execute tasks.

Orders are taken in one of three ways, which differ in how the task is enqueued. The tables say what
has become of them: `orders` has a row for each one that was committed, in the same transaction, and
`invoices` one for each execution of a task.
"""

import importlib
import sys
from contextlib import suppress
from functools import partial

import psycopg
from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryOutbox
from tests.faults.killed import kill_at_each_line, kill_at_random

SCRIPT = "from tests.faults.shopping import main; main()"
TABLES = """
CREATE SEQUENCE delay; CREATE SEQUENCE after; CREATE SEQUENCE outbox;
CREATE TABLE orders (way text, number int, PRIMARY KEY (way, number));
CREATE TABLE invoices (way text, number int)
"""
WAYS = ("delay", "after", "outbox")
"""`delay()` in the transaction; after the commit, as `delay_on_commit` has it; with an outbox."""
IMPORTED_LATE = ("celery.app.events", "celery.fixups.django", "celery.loaders.app", "kombu.mixins")


def make_app(broker):
    """Return the app."""
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
    return app


class Web:
    """A web process: it takes orders, half of which are rolled back."""

    def __init__(self, dsn, broker, way):
        self._app = make_app(broker)
        self._outbox = CeleryOutbox(self._app)
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("SET synchronous_commit = off")
        self._way = way
        self._take = getattr(self, f"_take_{way}")

    def serve(self, count, tick):
        """Take orders until so many transactions have begun, in this process or before."""
        while (number := self._next()) <= count:
            with suppress(OperationalError, RedisError):  # the customer gets an error page
                self._take(number, is_cancelled=bool(number % 2))
            tick()

    def warm_up(self):
        """Take an order, so that the next ones take few lines; return what takes them."""
        self._take(self._next(), is_cancelled=False)
        return self._take_two

    def _take_two(self):
        for is_cancelled in (True, False):
            self._take(self._next(), is_cancelled=is_cancelled)

    def _next(self):
        # A number is used once, although the process that has taken it may be killed.
        return self._connection.execute("SELECT nextval(%s)", (self._way,)).fetchone()[0]

    def _take_delay(self, number, is_cancelled):
        with self._connection.transaction(force_rollback=is_cancelled):
            self._insert(number)
            self._publish(number)

    def _take_after(self, number, is_cancelled):
        with self._connection.transaction(force_rollback=is_cancelled):
            self._insert(number)
        if not is_cancelled:
            self._publish(number)

    def _take_outbox(self, number, is_cancelled):
        with self._connection.transaction(force_rollback=is_cancelled):
            self._insert(number)
            with self._outbox(self._connection):
                self._publish(number)

    def _insert(self, number):
        self._connection.execute("INSERT INTO orders VALUES (%s, %s)", (self._way, number))

    def _publish(self, number):
        self._app.send_task("invoice", (self._way, number), queue=self._way)


def web(dsn, broker, way, count, most):
    """Take orders in processes that are killed at random, after so many orders at most."""
    kill_at_random(lambda tick: Web(dsn, broker, way).serve(int(count), tick), int(most))


def stepping_web(dsn, broker, way, step):
    """Take orders in processes that are killed some lines later each time."""
    kill_at_each_line(lambda: Web(dsn, broker, way).warm_up(), int(step))


def relay(dsn, broker, seconds):
    """Relay in processes that are killed at random, after so many seconds at most."""
    kill_at_random(partial(_relay, dsn, broker), 1, float(seconds))


def _relay(dsn, broker, tick):
    notifier = Notifier(dsn, wait=True)
    CeleryOutbox(make_app(broker)).relay_to(notifier)
    notifier.start()
    tick()
    notifier.wait()


def worker(dsn, broker):
    """Execute tasks: each records that it was executed."""
    app = make_app(broker)
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute("SET synchronous_commit = off")

    @app.task(name="invoice")
    def invoice(way, number):
        connection.execute("INSERT INTO invoices VALUES (%s, %s)", (way, number))

    options = "-P threads -c 2 -l WARNING --without-gossip --without-mingle --without-heartbeat"
    app.worker_main(["worker", *options.split(), "-Q", ",".join(WAYS)])


def main():
    """Run what the arguments say."""
    dsn, name, *arguments = sys.argv[1:]
    for module in IMPORTED_LATE:  # once, instead of in each fork
        importlib.import_module(module)
    kinds = {"web": web, "stepping_web": stepping_web, "relay": relay, "worker": worker}
    kinds[name](dsn, *arguments)
