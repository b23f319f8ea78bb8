"""Celery tasks that are published in a transaction of Django."""

import pytest
from asgiref.sync import async_to_sync
from celery import Celery
from django.db import connection, connections, transaction

from pgnotifier.contrib.celery import CeleryOutbox
from pgnotifier.contrib.celery.relay_messages import read
from pgnotifier.errors import ArgumentTypeError, ConfigurationError


def ids(alias="default"):
    """Return the ids of the tasks in the outbox, in order."""
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT payload FROM pgnotifier.log WHERE channel = 'pgnotifier:celery:default'"
            " ORDER BY id"
        )
        return [read(text).open().headers["id"] for (text,) in cursor.fetchall()]


@pytest.fixture
def committed(transactional_db):
    """Let transactions commit; afterwards the log is empty, as before."""
    _empty()
    yield
    _empty()


def _empty():
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.log, pgnotifier.subscription CASCADE")


@pytest.fixture
def app():
    """Return an app with a broker that is down."""
    return Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)


@pytest.fixture
def outbox(app):
    """Return its outbox."""
    return CeleryOutbox(app)


@pytest.fixture
def task(app):
    """Return a task."""

    @app.task(name="own", shared=False)
    def own(*args):
        """Do nothing."""

    return own


def fail():
    raise ZeroDivisionError


@pytest.mark.parametrize("given", ["nothing", "alias", "proxy", "connection", "cursor"])
def test_in_a_transaction(committed, outbox, task, given):
    """Tasks are part of `atomic()`, also of a nested one."""
    found = {
        "nothing": None,
        "alias": "default",
        "proxy": connection,
        "connection": connections["default"],
        "cursor": connection.cursor(),
    }[given]
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outbox.enqueue(found, task)
        fail()
    with transaction.atomic():
        with outbox(found):
            first = task.delay(1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            outbox.enqueue(found, task)
            fail()
        more = outbox.enqueue_many(found, [task.s(2), task.s(3)])
    assert ids() == [first.id, *(one.id for one in more)]


def test_in_autocommit(committed, outbox, task):
    """Outside of `atomic()`, tasks are committed when the block ends."""
    with outbox():
        result = task.delay(1)
        assert ids() == []
    assert ids() == [result.id]


@pytest.mark.parametrize("is_manual", [False, True])
def test_a_transaction_that_ends_in_a_block(committed, outbox, task, caplog, is_manual):
    """Without autocommit, a warning says so; with it, nobody has to commit."""
    transaction.set_autocommit(not is_manual)
    try:
        with outbox():
            if is_manual:
                connection.cursor().execute("SELECT 1")
                task.delay(1)
                transaction.commit()
            else:
                with transaction.atomic():
                    task.delay(1)
        warned = [one.getMessage() for one in caplog.records if one.name == "pgnotifier.log"]
        assert ["became part of a new transaction" in one for one in warned] == [True] * is_manual
        if is_manual:
            transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert len(ids()) == (not is_manual)


def test_asynchronous_code(committed, outbox, task):
    """In asynchronous code, they are committed when the block ends."""

    async def run():
        async with outbox():
            first = task.delay(1)
        return [first, await outbox.aenqueue("default", task.s(2))]

    assert ids() == []
    results = async_to_sync(run)()
    assert ids() == [one.id for one in results]


def test_wrong_aliases(committed, outbox, task):
    """An alias that doesn't exist, or is that of another kind of database, is an error."""
    with pytest.raises(ConfigurationError, match="no alias 'nowhere'"):
        outbox.enqueue("nowhere", task)
    with pytest.raises(ArgumentTypeError, match="publish with a connection"):
        outbox.enqueue("lite", task)
