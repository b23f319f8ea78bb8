"""Tasks that are done once, in real workers and eagerly."""

import secrets

import psycopg
import pytest
from celery import Celery

from pgnotifier import durable
from pgnotifier.once import once

SHOP = """
import psycopg
from celery.exceptions import SoftTimeLimitExceeded
from pgnotifier.contrib.celery import Once

app.conf.update(
    pgnotifier_dsn=os.environ["DSN"], task_acks_late=True, task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
)

@app.task(bind=True, base=Once)
def invoice(self, n):
    write("begun", n)
    with self.once() as connection:
        connection.execute("INSERT INTO effect VALUES (%s)", (n,))
    write("ended", n)
    return n * 10

@app.task(bind=True, base=Once, max_retries=5, default_retry_delay=0.05)
def retried(self, n):
    with self.once() as connection:
        connection.execute("INSERT INTO effect VALUES (%s)", (n,))
        if self.request.retries < 2:
            raise self.retry()
    write("ended", self.request.retries)

@app.task(bind=True, base=Once, autoretry_for=(Exception,), max_retries=5, retry_backoff=False,
          default_retry_delay=0.05)
def autoretried(self, n):
    with self.once() as connection:
        connection.execute("INSERT INTO effect VALUES (%s)", (n,))
        if self.request.retries < 2:
            raise ValueError(n)
    raise ValueError("after the effects") if self.request.retries < 3 else None

@app.task(bind=True, base=Once, soft_time_limit=1)
def slow(self, n):
    try:
        with self.once() as connection:
            connection.execute("INSERT INTO effect VALUES (%s)", (n,))
            connection.execute("SELECT pg_sleep(60)")
    except SoftTimeLimitExceeded:
        write("stopped", n)

@app.task(bind=True, base=Once)
def replaced(self, n, by):
    with self.once() as connection:
        connection.execute("INSERT INTO effect VALUES (%s)", (n,))
    others = [invoice.si(n + 1), invoice.si(n + 2)]
    raise self.replace(chain(others) if by == "chain" else others[0])

@app.task
def follow(result):
    write("followed", result)
"""


@pytest.fixture
def shop(log, open_shop):
    """Return a shop with the table of effects."""
    log.execute("CREATE TABLE effect (n int)")
    return open_shop(SHOP, dsn=log.dsn)


@pytest.fixture
def app(broker):
    """Return an app that sends tasks to the shop by name."""
    return Celery("sender", broker=broker, backend=broker, set_as_current=False)


def effects(log):
    """Return the numbers in the table, in order."""
    return [n for (n,) in log.execute("SELECT n FROM effect ORDER BY 1")]


@pytest.mark.parametrize(
    "pool",
    [
        ["-P", "solo"],
        ["-P", "prefork", "-c", "4"],
        ["-P", "threads", "-c", "4"],
        ["-P", "gevent", "-c", "20"],
    ],
    ids=lambda pool: pool[1],
)
def test_pools(log, shop, app, pool):
    """In each pool, tasks that arrive several times are done once, also at the same time."""
    ids = [secrets.token_hex(8) for _ in range(20)]
    for _ in range(3):
        for n, one in enumerate(ids):
            app.send_task("shop.invoice", (n,), task_id=one, queue=shop.queue)
    worker = shop.worker(*pool)
    shop.wait_written("begun", 60)
    worker.wait_for("was done before", 40)
    worker.end()
    assert effects(log) == list(range(20))
    assert len(shop.written("ended")) == 20
    assert "Traceback" not in worker.log
    assert "ResourceWarning" not in worker.log


def test_the_result_stays(log, shop, app):
    """A task that was done before has the result of then, and so has what follows it."""
    shop.worker()
    task_id = secrets.token_hex(8)
    options = {"task_id": task_id, "queue": shop.queue}
    assert app.send_task("shop.invoice", (7,), **options).get(timeout=60) == 70
    follow = app.signature("shop.follow", queue=shop.queue)
    app.send_task("shop.invoice", (7,), link=follow, **options)
    assert shop.wait_written("followed", 1) == [(70,)]
    assert app.AsyncResult(task_id).get(timeout=60) == 70
    assert effects(log) == [7]


def test_retries(log, shop, app):
    """A try that fails in the block has no effects; one that fails after it, has them once."""
    shop.worker()
    result = app.send_task("shop.retried", (1,), queue=shop.queue)
    assert result.get(timeout=60) is None
    assert shop.wait_written("ended", 1) == [(2,)]
    result = app.send_task("shop.autoretried", (2,), queue=shop.queue)
    assert result.get(timeout=60) is None
    assert effects(log) == [1, 2]


@pytest.mark.parametrize(("by", "expected"), [("task", [1, 2]), ("chain", [1, 2, 3])])
def test_replacing(log, shop, app, by, expected):
    """What replaces a task has its id, and is done nevertheless, once as well."""
    shop.worker()
    result = app.send_task("shop.replaced", (1, by), queue=shop.queue)
    assert result.get(timeout=60) == expected[-1] * 10
    assert effects(log) == expected
    options = {"task_id": result.id, "queue": shop.queue}
    again = app.send_task("shop.invoice", (7,), replaced_task_nesting=1, **options)
    assert shop.wait_written("begun", len(expected))[-1] == (7,)
    assert again.get(timeout=60) == expected[-1] * 10
    assert app.send_task("shop.invoice", (8,), queue=shop.queue).get(timeout=60) == 80
    assert effects(log) == [*expected, 8]


def test_soft_time_limits(log, shop, app):
    """A time limit in the block takes the effects back."""
    shop.worker("-P", "prefork", "-c", "1")
    app.send_task("shop.slow", (1,), queue=shop.queue)
    shop.wait_written("stopped", 1)
    assert effects(log) == []


def test_a_short_keep(log, shop, app):
    """A worker warns once if a task may be delivered again after its id is forgotten."""
    log.execute("SELECT pgnotifier.keep_done('10 minutes')")
    worker = shop.worker()
    for n in range(3):
        app.send_task("shop.invoice", (n,), queue=shop.queue)
    shop.wait_written("ended", 3)
    app.send_task("shop.invoice", (3,), queue=shop.queue)
    shop.wait_written("ended", 4)
    assert worker.log.count("may be delivered again up to") == 1
    assert "--keep-done" in worker.log


def test_a_lost_connection(log, shop, app):
    """A connection that was lost between two tasks is replaced."""
    shop.worker()
    app.send_task("shop.invoice", (1,), queue=shop.queue)
    shop.wait_written("ended", 1)
    log.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ="
        " 'pgnotifier' AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    result = app.send_task("shop.invoice", (2,), queue=shop.queue)
    assert result.get(timeout=60) == 20
    assert effects(log) == [1, 2]


def test_rights_of_a_worker(log, make_role):
    """A worker's role needs the rights of a worker, and its own on its tables."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "worker")
    log.execute("CREATE TABLE effect (n int)")
    log.execute(f"GRANT INSERT ON effect TO {name}")
    with psycopg.connect(dsn, autocommit=True) as session, once(session, "a"):
        session.execute("INSERT INTO effect VALUES (1)")
    assert effects(log) == [1]
