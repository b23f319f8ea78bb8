"""The processes of a shop, which are killed: they take orders, relay, and execute tasks.

Orders are taken in one of three ways, which differ in how the task is enqueued. The tables say what
has become of them: `orders` has a row for each one that was committed, in the same transaction, and
`invoices` one for each execution of a task.
"""

import importlib
import logging
import sys
from contextlib import suppress
from functools import partial
from uuid import uuid4

import psycopg
from celery import Celery
from celery.signals import worker_ready
from psycopg.conninfo import make_conninfo

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryOutbox, Once
from tests.faults.killed import kill_at_each_line, kill_at_random

SCRIPT = "from tests.faults.shopping import main; main()"
TABLES = """
CREATE SEQUENCE delay; CREATE SEQUENCE after; CREATE SEQUENCE outbox;
CREATE SEQUENCE django; CREATE SEQUENCE on_commit;
CREATE TABLE orders (way text, number int, PRIMARY KEY (way, number));
CREATE TABLE invoices (way text, number int)
"""
WAYS = ("delay", "after", "outbox")
"""`delay()` in the transaction; after the commit; with an outbox."""
DJANGO_WAYS = ("django", "on_commit")
"""In a Django project: `delay()` with the setting `OUTBOX`; `delay_on_commit()` without it."""
IMPORTED_LATE = (
    *("celery.app.events", "celery.apps.worker", "celery.bin.celery", "celery.bin.worker"),
    *("celery.concurrency.thread", "celery.fixups.django", "celery.loaders.app"),
    *("celery.worker.components", "celery.worker.consumer", "celery.worker.pidbox"),
    *("celery.worker.strategy", "kombu.mixins", "kombu.transport.pyamqp"),
    "kombu.transport.redis",
)
"""Modules that Celery imports when it needs them."""


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
        # What kombu raises while the broker is down is an AttributeError at times. An outbox
        # doesn't need the broker.
        self._errors = () if way == "outbox" else (Exception,)
        self._take = getattr(self, f"_take_{way}")

    def serve(self, count, tick):
        """Take orders until so many transactions have begun, in this process or before."""
        while (number := self._next()) <= count:
            with suppress(*self._errors):  # the customer gets an error page
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


def web(dsn, broker, way, count, most, make=Web):
    """Take orders in processes that are killed at random, after so many orders at most."""
    kill_at_random(lambda tick: make(dsn, broker, way).serve(int(count), tick), int(most))


def stepping_web(dsn, broker, way, step, make=Web):
    """Take orders in processes that are killed some lines later each time."""
    kill_at_each_line(lambda: make(dsn, broker, way).warm_up(), int(step))


def relay(dsn, broker, seconds):
    """Relay in processes that are killed at random, after so many seconds at most."""
    kill_at_random(partial(_relay, dsn, broker), 1, float(seconds))


def _relay(dsn, broker, tick):
    notifier = Notifier(dsn, wait=True)
    CeleryOutbox(make_app(broker)).relay_to(notifier)
    notifier.start()
    tick()
    notifier.wait()


def worker(dsn, broker, seconds=None):
    """Execute tasks; with `seconds`, in processes that are killed after so many at most."""
    if seconds is None:
        _work(dsn, broker, lambda: None)
    kill_at_random(partial(_work, dsn, broker), 1, float(seconds))


def _work(dsn, broker, tick):
    app = make_app(broker)
    app.conf.update(
        pgnotifier_dsn=make_conninfo(dsn, options="-c synchronous_commit=off"),
        task_acks_late=True,
        worker_prefetch_multiplier=4,
    )
    if broker.startswith("redis"):  # what a killed worker had is executed again after two seconds
        app.conf.broker_transport_options = {
            "visibility_timeout": 2,
            "unacked_restore_limit": 10_000,
        }

    @app.task(name="invoice", bind=True, base=Once)
    def invoice(self, way, number):
        with self.once() as connection:
            connection.execute("INSERT INTO invoices VALUES (%s, %s)", (way, number))

    logger = logging.getLogger("pgnotifier.celery")  # which says what was done before
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    worker_ready.connect(lambda **_: tick(), weak=False)
    options = "-P threads -c 4 -l WARNING --without-gossip --without-mingle --without-heartbeat"
    name = f"{uuid4()}@localhost"
    app.worker_main(["worker", *options.split(), "-n", name, "-Q", ",".join(WAYS + DJANGO_WAYS)])


def import_all():
    """Import what is needed once, instead of in each fork."""
    for module in IMPORTED_LATE:
        importlib.import_module(module)


def main():
    """Run what the arguments say."""
    dsn, name, *arguments = sys.argv[1:]
    import_all()
    kinds = {"web": web, "stepping_web": stepping_web, "relay": relay, "worker": worker}
    kinds[name](dsn, *arguments)
