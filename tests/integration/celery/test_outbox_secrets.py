"""Arguments of tasks may be personal: the outbox and its relay log none of them, at any level."""

import json
import logging
from contextlib import closing

import psycopg
import pytest
from celery import Celery
from outboxes import make_app
from test_outbox_relay import Outbox, invoices

from pgnotifier.contrib.celery import CeleryOutbox
from pgnotifier.errors import ArgumentTypeError

SECRET = "jane@example.com"


@pytest.fixture
def shop(log, pgnotifier_private_valkey, make_notifier):
    """Yield an outbox; its broker is emptied."""
    shop = Outbox(log, pgnotifier_private_valkey.url, make_notifier)
    with closing(shop.redis):
        yield shop


def route(name, args, kwargs, options, task=None, **_):
    """Put arguments into the error of a router."""
    if name == "shop.ship":
        raise ValueError(f"no customer {args[0]}")


def test_no_argument_is_logged(shop, pgnotifier_private_valkey, eventually, caplog):
    """Neither what is sent nor what is refused leaves an argument in a log, a reason, a status."""
    caplog.set_level(logging.DEBUG)
    app = make_app(shop.url)
    app.conf.task_routes = (route,)
    with psycopg.connect(shop.log.dsn) as connection:
        with CeleryOutbox(app)(connection):
            app.tasks["shop.invoice"].delay(SECRET, copies=SECRET)
        with pytest.raises(ZeroDivisionError), CeleryOutbox(app)(connection):
            app.tasks["shop.invoice"].delay(SECRET)
            raise ZeroDivisionError
    shop.put((None, f'{{"body": "{SECRET}"'), *shop.make(invoices(SECRET)))
    shop.ask(task="shop.invoice", args=[SECRET], kwargs={"copies": SECRET})
    shop.ask(task="shop.invoice", args=[], kwargs={"customer": SECRET})
    shop.ask(task="shop.unknown", args=[SECRET], kwargs={})
    shop.ask(task="shop.invoice", args=[SECRET], kwargs={}, headers={"task": SECRET})
    shop.ask(task="shop.invoice", args=SECRET)
    shop.ask(task="shop.ship", args=[SECRET], kwargs={})
    shop.redis.set("wrong", "no list")
    shop.ask(task="shop.invoice", args=[SECRET], kwargs={}, queue="wrong")
    pgnotifier_private_valkey.kill()
    notifier = shop.relay(app)
    eventually(lambda: any(one.retrying for one in notifier.status().dispatchers))
    pgnotifier_private_valkey.start()
    eventually(lambda: shop.log.execute("SELECT count(*) FROM pgnotifier.failed")[0][0] >= 6)
    shop.ask(task="shop.invoice", args=["the last one"], kwargs={})
    eventually(lambda: any("the last one" in _arguments(text) for text in shop.texts()))
    status = json.dumps(notifier.status().to_dict(), default=repr)
    notifier.stop()
    formatter = logging.Formatter()
    written = "\n".join(map(formatter.format, caplog.records))
    extras = repr([vars(one) for one in caplog.records])
    kept = repr(shop.log.execute("SELECT error, traceback FROM pgnotifier.failed ORDER BY n"))
    assert "its text is hidden" in kept
    for text in (written, extras, kept, status):
        assert SECRET not in text


def test_a_router_that_seems_to_be_a_broker(shop, eventually, caplog):
    """A router that can't reach something counts as a broker that is down, without arguments."""
    caplog.set_level(logging.DEBUG)
    app, seen = make_app(shop.url), []

    def route(name, args, kwargs, options, task=None, **_):
        if len(seen) < 2:
            seen.append(json.dumps(notifier.status().to_dict(), default=repr))
            raise OSError(f"no route for {args[0]}")

    app.conf.task_routes = (route,)
    shop.ask(task="shop.invoice", args=[SECRET], kwargs={})
    notifier = shop.relay(app)
    eventually(lambda: shop.texts())
    assert "its text is hidden" in caplog.text
    assert "its text is hidden" in seen[-1]
    for text in (caplog.text, repr([vars(one) for one in caplog.records]), *seen):
        assert SECRET not in text


@pytest.mark.parametrize("name", ["shop.invoice", "celery.chain"])
def test_no_argument_is_in_an_error(log, name):
    """A signature of another app is refused by name."""
    theirs = make_app("memory://").tasks["shop.invoice"].si(SECRET)
    refused = theirs | theirs if name == "celery.chain" else theirs
    outbox = CeleryOutbox(Celery("ours", broker="memory://", set_as_current=False))
    for enqueue, given in (outbox.enqueue, refused), (outbox.enqueue_many, [refused]):
        with pytest.raises(ArgumentTypeError) as found:
            enqueue(log.connection, given)
        assert str(found.value) == f"'{name}' is of the app 'shop', but this outbox is of 'ours'"


def _arguments(text):
    return json.loads(text)["headers"]["argsrepr"]
