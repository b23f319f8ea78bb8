"""The relay of an outbox into transports that have no forwarder of their own, through kombu."""

import logging

import psycopg
import pytest
from kombu import Exchange, Queue
from outboxes import make_app, publish_some

from pgnotifier.contrib.celery import CeleryOutbox

CONF = {"accept_content": ["json", "pickle"]}


@pytest.fixture(params=["memory", "filesystem"])
def make(request, tmp_path):
    """Return a function that makes apps with a broker; each name has messages of its own."""

    def make(name, **conf):
        if request.param == "memory":  # what is in it belongs to this process
            queue = f"{tmp_path.name}-{name}"
            return make_app("memory://", task_default_queue=queue, **conf)
        folder = tmp_path / name
        options = {"control_folder": str(folder / "control")}
        for kind in ("in", "out"):
            folder.joinpath("messages").mkdir(parents=True, exist_ok=True)
            options[f"data_folder_{kind}"] = str(folder / "messages")
        return make_app("filesystem://", broker_transport_options=options, **conf)

    return make


def take(app, name=None):
    """Return the messages in a queue, in order, and leave it empty."""
    found = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        name = name or app.conf.task_default_queue
        channel.queue_declare(name)
        while (message := channel.basic_get(name, no_ack=True)) is not None:
            found.append(message)
    return found


def by_id(message):
    """Return what to order messages by; a file system doesn't keep their order."""
    return message.headers["id"]


def as_seen(message):
    """Return what a worker sees of a message, without what each message has of its own."""
    properties = {**message.properties, "delivery_tag": None, "delivery_info": None}
    headers = {**message.headers, "origin": None}
    return message.body, message.content_type, message.content_encoding, headers, properties


@pytest.fixture
def relay(log, make_notifier):
    """Return a function that starts the relay of an app's outbox."""

    def relay(app):
        notifier = make_notifier(log.dsn)
        CeleryOutbox(app).relay_to(notifier)
        notifier.start()

    return relay


def dead(log):
    """Return why entries were set aside."""
    return [error for (error,) in log.execute("SELECT error FROM pgnotifier.failed WHERE dead")]


def behind(log):
    """Return how many entries wait."""
    return log.execute("SELECT sum(lag) FROM pgnotifier.list_positions()")[0][0]


def test_messages_equal_those_of_apply_async_through_kombu(log, make, relay, eventually):
    """A worker sees the same body, properties and headers."""
    direct, app = make("direct", **CONF), make("outbox", **CONF)
    publish_some(direct)
    expected = [as_seen(one) for one in sorted(take(direct), key=by_id)]
    with psycopg.connect(log.dsn) as connection, CeleryOutbox(app)(connection):
        publish_some(app)
    assert take(app) == []
    relay(app)
    eventually(lambda: behind(log) == 0)
    found = [as_seen(one) for one in sorted(take(app), key=by_id)]
    assert len(found) == len(expected) == 6
    assert found == expected


def test_exchanges_through_kombu(log, make, relay, eventually, caplog):
    """A message for an exchange gets to its queue, and is set aside if no queue is bound to it."""
    caplog.set_level(logging.CRITICAL)
    topics = Exchange("topics", type="topic")
    app = make("outbox", task_queues=[Queue("eu", topics, routing_key="eu.#")])
    invoice = app.tasks["shop.invoice"]
    with psycopg.connect(log.dsn) as connection, CeleryOutbox(app)(connection):
        for n, key in enumerate(("eu.fr", "us.ny", "eu.it")):
            invoice.apply_async((n,), exchange="topics", routing_key=key, task_id=f"invoice {n}")
    relay(app)
    eventually(lambda: behind(log) == 0)
    assert {one.headers["id"] for one in take(app, "eu")} == {"invoice 0", "invoice 2"}
    assert ["no queue is bound to the exchange 'topics'" in one for one in dead(log)] == [True]
