"""Tasks get the values of `notify_on` with the same types, whatever the serializer."""

import os
from contextlib import ExitStack
from decimal import Decimal

import pytest
import waiting
from celery import Celery
from celery.contrib.testing.worker import start_worker
from django.db import connection
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import DefaultSerializer, JSONSerializer
from rq.timeouts import TimerDeathPenalty

from pgnotifier.contrib.django import NotifyOn
from shop.models import Order

AMOUNTS = ["0.10", "5.00", "9999999.99", "-0.01", "12345678901234567.89"]


@pytest.fixture
def changes(transactional_db, through, eventually):
    """Return a function that inserts rows, and has a listener enqueue what their trigger sends."""
    made = NotifyOn("found", update=False, delete=False, new=["amount"], name="pgnotifier_values")
    _execute("ALTER TABLE shop_order ALTER amount TYPE numeric")
    with connection.schema_editor(atomic=False) as editor:
        editor.execute(made.create_sql(Order, editor), None)

    def changes(kind):
        notifier = through(kind)
        notifier.start()
        try:
            for amount in AMOUNTS:
                _execute(
                    'INSERT INTO shop_order (item, "order status", amount, note) '
                    f"VALUES ('', '', {amount}, '')"
                )
            eventually(lambda: notifier.status().received >= 2 * len(AMOUNTS))
        finally:
            assert notifier.stop(20) == 0

    yield changes
    with connection.schema_editor(atomic=False) as editor:
        editor.execute(made.remove_sql(Order, editor), None)
    _execute("DELETE FROM shop_order; ALTER TABLE shop_order ALTER amount TYPE numeric(9, 2)")


def _execute(sql):
    with connection.cursor() as cursor:  # a worker in this process closes connections
        cursor.execute(sql)


def check(calls):
    """Assert that each task got each amount as stored, with the model as its sender."""
    amounts = [payload["new"]["amount"] for what, _, payload, _ in calls if what == "work"]
    assert sorted(map(repr, amounts)) == sorted(repr(Decimal(one)) for one in AMOUNTS)
    assert {sender for _, sender, *_ in calls} == {Order}


def count(calls):
    """Return how many tasks were called."""
    return sum(what in ("work", "async") for what, *_ in calls)


def test_django(changes, calls):
    """Django's tasks get the same values."""
    changes("tasks")
    check(calls)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_celery(changes, calls, serializer):
    """Celery's workers get the same values, with JSON and with pickle."""
    app = Celery("project", broker=os.environ["TEST_DJANGO_REDIS_URL"], set_as_current=True)
    app.conf.update(
        task_serializer=serializer,
        accept_content=[serializer],
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        task_default_queue=f"values-{serializer}",
    )
    with app:
        changes("celery")
        with start_worker(app, perform_ping_check=False):
            waiting.eventually(lambda: count(calls) == 2 * len(AMOUNTS))
    check(calls)


@pytest.mark.parametrize("serializer", [DefaultSerializer, JSONSerializer])
def test_rq(changes, calls, settings, serializer):
    """RQ's workers get the same values, with pickle and with JSON."""

    class Worker(SimpleWorker):
        death_penalty_class = TimerDeathPenalty

    with ExitStack() as stack:
        connection = stack.enter_context(Redis.from_url(os.environ["TEST_DJANGO_REDIS_URL"]))
        queue = Queue(f"values-{serializer.__name__}", connection=connection, serializer=serializer)
        settings.PGNOTIFIER = {"RQ_QUEUE": lambda: queue}
        changes("rq")
        Worker([queue], connection=connection, serializer=serializer).work(burst=True)
    check(calls)
