"""RQ jobs that are enqueued in a transaction of Django."""

import os

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections, transaction
from redis import Redis
from rq import Queue

from pgnotifier.contrib.django.notifiers import all_notifiers, get_notifier
from pgnotifier.contrib.rq import RQOutbox
from pgnotifier.contrib.rq.outbox_jobs import read
from pgnotifier.errors import ConfigurationError


@pytest.fixture
def outbox():
    """Return an outbox of a Redis that is down."""
    return RQOutbox(Queue("images", connection=Redis(port=1, retry=None)))


@pytest.fixture
def committed(transactional_db):
    """Let transactions commit; afterwards the log is empty, as before."""
    _empty()
    yield
    _empty()


def _empty():
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.log, pgnotifier.subscription CASCADE")


def ids():
    """Return the ids of the jobs in the outbox, in order."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT payload FROM pgnotifier.log WHERE channel = 'pgnotifier:rq:default' ORDER BY id"
        )
        return [read(text).id for (text,) in cursor.fetchall()]


def work(*args):
    """Do nothing: no worker runs."""


def test_transactions(committed, outbox):
    """A job is part of the transaction that is open: of the default database, or of an alias."""
    with transaction.atomic():
        jobs = [
            outbox.enqueue(None, work, 1),
            outbox.enqueue("default", work, 2),
            outbox.enqueue(connection, work, 3),
            *outbox.enqueue_many(connections["default"], [Queue.prepare_data(work)]),
        ]
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            outbox.enqueue(None, work, 4)
            raise ZeroDivisionError
    assert ids() == [job.id for job in jobs]
    with pytest.raises(ConfigurationError, match="no alias 'nowhere'"):
        outbox.enqueue("nowhere", work)


def test_asyncio(committed, outbox):
    """In asynchronous code, the job is committed at once."""

    async def enqueue():
        return await outbox.aenqueue(None, work, 1)

    job = async_to_sync(enqueue)()
    assert ids() == [job.id]


def test_the_relay(committed, eventually):
    """The notifier of a database, which `manage.py pgnotifier` runs, relays as any other."""
    with Redis.from_url(os.environ["TEST_DJANGO_REDIS_URL"]) as redis:
        outbox = RQOutbox(Queue("django-outbox", connection=redis))
        notifier = get_notifier("default")
        outbox.relay_to(notifier)
        try:
            assert all_notifiers()["default"] is notifier
            with transaction.atomic():
                job = outbox.enqueue(None, work, 1)
            notifier.start()
            eventually(lambda: outbox.queue.job_ids == [job.id])
        finally:
            notifier.stop()
            notifier.unsubscribe(outbox.subscription, outbox.channel)
            outbox.queue.delete(delete_jobs=True)
