"""A worker that relays an outbox itself, and executes what it has relayed."""

import psycopg
import pytest
from celery import Celery, chain

from pgnotifier.contrib.celery import CeleryOutbox

SHOP = """
import psycopg
from pgnotifier.contrib.celery import CeleryNotifier

app.conf.pgnotifier_dsn = os.environ["DSN"]
outbox = CeleryNotifier(app).outbox

@app.task(name="order", bind=True)
def order(self, number):
    with psycopg.connect(os.environ["DSN"]) as connection:
        for how in ("rolled back", "committed"):
            with outbox(connection):
                invoice.delay(f"{number}, {how}")
            connection.rollback() if how == "rolled back" else connection.commit()

@app.task(name="invoice", bind=True)
def invoice(self, number):
    write("invoiced", number, self.request.root_id)
"""


@pytest.fixture
def web(log):
    """Return an app that only enqueues, with the name of the shop's; it has no broker."""
    return Celery("shop", broker="amqp://127.0.0.1:1//", set_as_current=False)


def test_a_worker_relays_and_executes(log, web, open_shop):
    """What web, SQL and the worker's own tasks enqueue is relayed by a worker, and executed."""
    shop = open_shop(SHOP)
    outbox = CeleryOutbox(web)
    with psycopg.connect(log.dsn) as connection, outbox(connection):
        first = web.signature("order", (1,), queue=shop.queue).delay()
        chain(
            web.signature("invoice", ("2a",), queue=shop.queue),
            web.signature("invoice", ("2b",), queue=shop.queue, immutable=True),
        ).apply_async()
    shop.worker("--pgnotifier", "-P", "prefork", "-c", "1")
    ask = "SELECT pgnotifier.enqueue('order', args => '[3]', queue => %s)"
    ((third,),) = log.execute(ask, shop.queue)
    roots = dict(shop.wait_written("invoiced", 4))
    assert roots["1, committed"] == first.id
    assert roots["3, committed"] == str(third)
    assert roots["2a"] == roots["2b"]
    assert len(roots) == 4
