"""The relay of an outbox into RabbitMQ: messages equal those that `apply_async` sends."""

import contextlib
import json
import logging
import secrets

import amqp
import psycopg
import pytest
from celery.signals import before_task_publish
from kombu import Exchange, Queue
from outboxes import capture, catch, make_app, publish_some

from pgnotifier._runtime.backoff import Backoff
from pgnotifier.contrib.celery import forwarding_amqp
from pgnotifier.contrib.celery.forwarding_amqp import AmqpForwarder
from pgnotifier.contrib.celery.relay import OutboxDispatcher

CHANNEL = "pgnotifier:celery:default"
ID = "outbox:celery:shop"


class RabbitOutbox:
    """An outbox in a database, and queues of RabbitMQ that its relay fills."""

    def __init__(self, log, url, made_in, make_notifier):
        self.log, self.url, self.made_in = log, url, made_in
        self.queue = secrets.token_hex(8)
        self._make_notifier = make_notifier
        log.execute("SELECT pgnotifier.subscribe(%s, %s)", ID, CHANNEL)  # as whoever enqueues does
        self.queues = [self.queue]

    def app(self, url, **conf):
        """Return an app with a queue of its own."""
        return make_app(url, task_default_queue=self.queue, **conf)

    def make(self, publish, **conf):
        """Return key and text of the messages that a function publishes with an app."""
        app = self.app(self.made_in, **conf)
        return catch(app, self.made_in, lambda: publish(app))

    def put(self, *entries):
        """Put entries into the outbox, in one transaction."""
        with psycopg.connect(self.log.dsn) as connection:
            for key, text in entries:
                connection.execute(
                    "INSERT INTO pgnotifier.log (channel, key, payload) VALUES (%s, %s, %s)",
                    (CHANNEL, key, text),
                )

    def relay(self, app=None):
        """Start a relay; return its notifier."""
        notifier = self._make_notifier(self.log.dsn)
        OutboxDispatcher(self.app(self.url) if app is None else app).relay_to(notifier)
        notifier.start()
        return notifier

    def count(self, name=None):
        """Return how many messages a queue has; 0 if it isn't there."""
        with self.app(self.url).connection_for_read() as connection:
            try:
                return connection.channel().queue_declare(name or self.queue, passive=True)[1]
            except amqp.NotFound:
                return 0

    def take(self, name=None):
        """Take the messages out of a queue."""
        found = []
        with self.app(self.url).connection_for_read() as connection:
            channel = connection.channel()
            while (raw := channel.basic_get(name or self.queue, no_ack=True)) is not None:
                found.append(channel.message_to_python(raw))
        return found

    def dead(self):
        """Return why entries were set aside."""
        found = self.log.execute("SELECT error FROM pgnotifier.failed WHERE dead ORDER BY n")
        return [error for (error,) in found]

    def close(self):
        """Delete the queues."""
        with self.app(self.url).connection_for_read() as connection:
            for name in self.queues:
                with contextlib.suppress(amqp.NotFound), connection.channel() as channel:
                    channel.queue_delete(name)


@pytest.fixture
def outbox(log, rabbitmq, pgnotifier_redis_url, make_notifier):
    """Yield an outbox; its queues are deleted afterwards."""
    outbox = RabbitOutbox(log, rabbitmq.url, pgnotifier_redis_url, make_notifier)
    yield outbox
    outbox.close()


def by_id(message):
    """Return what to order messages by."""
    return message.headers["id"]


def as_seen(message):
    """Return what a worker sees of a message, without what each message has of its own."""
    properties = {**message.properties, "application_headers": None}
    headers = {**message.headers, "origin": None}
    info = {**message.delivery_info, "delivery_tag": None, "message_count": None}
    return message.body, message.content_type, message.content_encoding, headers, properties, info


def test_messages_equal_those_of_apply_async(outbox, eventually):
    """Body, properties and headers are those that RabbitMQ gets of Celery itself."""
    made = outbox.make(publish_some, accept_content=["json", "pickle"])
    direct = outbox.app(outbox.url)
    publish_some(direct)
    eventually(lambda: outbox.count() == 6)
    expected = [as_seen(one) for one in sorted(outbox.take(), key=by_id)]
    outbox.put(*made)
    outbox.relay()
    eventually(lambda: outbox.count() == 6)
    for message, seen in zip(sorted(outbox.take(), key=by_id), expected, strict=True):
        assert as_seen(message)[1:] == seen[1:]
        assert as_seen(message)[0] == seen[0]


def test_what_rabbitmq_refuses(outbox, eventually, caplog):
    """An exchange that isn't there, and a queue that was declared otherwise, hold up nothing."""
    caplog.set_level(logging.CRITICAL)
    other = secrets.token_hex(8)
    outbox.queues.append(other)
    with outbox.app(outbox.url).connection_for_write() as connection:
        connection.channel().queue_declare(other, durable=False, auto_delete=False)
    good = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(20)])
    message = json.loads(good[0][1])
    message["properties"]["delivery_info"]["exchange"] = "nowhere"
    bad = outbox.make(lambda app: app.tasks["shop.invoice"].apply_async((1,), queue=other))
    outbox.put(*good[:10], ("nowhere", json.dumps(message)), *bad, *good[10:])
    outbox.relay()
    eventually(lambda: outbox.count() == 20 and len(outbox.dead()) == 2)
    assert "no exchange 'nowhere'" in outbox.dead()[0]
    assert "PRECONDITION_FAILED" in outbox.dead()[1]
    ids = [message.headers["id"] for message in outbox.take()]
    assert ids == [json.loads(text)["headers"]["id"] for _, text in good]


def test_a_reserved_name(outbox, eventually, caplog):
    """What is for a queue with a name that only RabbitMQ may give is set aside, by whoever asks."""
    caplog.set_level(logging.CRITICAL)
    good = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(4)])
    message = json.loads(good[0][1])
    message["properties"]["delivery_info"]["routing_key"] = "amq.x"
    request = json.dumps({"task": "shop.invoice", "id": "sql", "args": [7], "queue": "amq.y"})
    outbox.put(good[0], (None, json.dumps(message)), good[1], (None, request), *good[2:])
    outbox.relay()
    eventually(lambda: outbox.count() >= 4 and len(outbox.dead()) == 2)
    assert "queue name 'amq.x' contains reserved prefix" in outbox.dead()[0]
    assert "queue name 'amq.y' contains reserved prefix" in outbox.dead()[1]
    ids = {message.headers["id"] for message in outbox.take()}
    assert ids == {json.loads(text)["headers"]["id"] for _, text in good}


def test_a_queue_without_access(outbox, eventually, monkeypatch, caplog):
    """If RabbitMQ refuses access, everything waits until it is granted."""
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(Backoff, "LAST", 0.2)
    good = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(4)])
    refused = []

    def refuse(entity, channel, **_):
        refused.append(entity)
        text = f"ACCESS_REFUSED - configure access to queue '{entity.name}' refused for user 'shop'"
        raise amqp.AccessRefused(text, (50, 10))

    with monkeypatch.context() as patch:
        patch.setattr(forwarding_amqp, "_maybe_declare", refuse)
        outbox.put(*good)
        outbox.relay()
        eventually(lambda: len(refused) >= 6)
    eventually(lambda: outbox.count() == 4)
    assert outbox.dead() == []


def test_a_message_that_closes_the_channel(outbox, eventually, caplog):
    """The one that RabbitMQ refuses is found and set aside; the others arrive."""
    caplog.set_level(logging.CRITICAL)
    good = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(20)])
    message = json.loads(good[0][1])
    message["properties"]["expiration"] = "soon"  # RabbitMQ reads it as a number
    outbox.put(*good[:10], (None, json.dumps(message)), *good[10:])
    outbox.relay()
    eventually(lambda: outbox.count() >= 20 and len(outbox.dead()) == 1)
    assert "PRECONDITION_FAILED" in outbox.dead()[0]
    ids = {message.headers["id"] for message in outbox.take()}
    assert ids == {json.loads(text)["headers"]["id"] for _, text in good}


def test_messages_that_close_the_connection(outbox, eventually, monkeypatch, caplog):
    """Those over which RabbitMQ closes the connection are found and set aside; the others arrive.

    It does so for NaN. The check that would find it is switched off.
    """
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(forwarding_amqp, "check_finite", lambda headers: None)
    good = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(20)])
    message = json.loads(good[0][1])
    message["headers"]["x"] = float("nan")
    bad = (None, json.dumps(message))
    outbox.put(*good[:5], bad, *good[5:10], bad, *good[10:15])
    outbox.relay()
    eventually(lambda: outbox.count() >= 15 and len(outbox.dead()) == 2, 40)
    outbox.put(*good[15:], bad)
    eventually(lambda: outbox.count() >= 20 and len(outbox.dead()) == 3, 40)
    assert all("closes the connection over the message" in reason for reason in outbox.dead())
    ids = [message.headers["id"] for message in outbox.take()]
    assert list(dict.fromkeys(ids)) == [json.loads(text)["headers"]["id"] for _, text in good]


OUTAGES = {
    "a broker that closes every connection": (amqp.InternalError, ["settle", "probe"]),
    "one that is restarted": (amqp.ConnectionForced, ["settle"]),
    "a queue that can't be declared": (amqp.InternalError, ["_find"]),
}
"""The error with which the broker closes the connection, and where the relay meets it."""


@pytest.mark.parametrize(("error", "methods"), OUTAGES.values(), ids=OUTAGES)
@pytest.mark.parametrize("count", [1, 4])
def test_outages_set_nothing_aside(outbox, eventually, monkeypatch, caplog, error, methods, count):
    """However often the connection is closed in an outage, everything is sent afterwards."""
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(Backoff, "LAST", 0.2)
    good = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(count)])
    failures = []

    def fail(*_):
        failures.append(1)
        raise error("INTERNAL_ERROR", (0, 0), reply_code=541)

    with monkeypatch.context() as patch:
        for name in methods:
            patch.setattr(AmqpForwarder, name, fail)
        outbox.put(*good)
        outbox.relay()
        eventually(lambda: len(failures) >= 12)
    eventually(lambda: outbox.count() == count)
    assert outbox.dead() == []


UNSENDABLE = {
    "nan": (float("nan"), "the header 'nan' is or contains NaN or an infinite number"),
    "deep": ([{"a": [1.5, -float("inf")]}], "the header 'deep' is or contains NaN or an infinite"),
    "large": ("x" * 140_000, "take 140"),
    "number": (2**70, "its properties can't be sent"),
}
"""Headers over which RabbitMQ would close the connection, or that AMQP can't encode, and why."""


def test_headers_that_cannot_be_sent(outbox, eventually, caplog):
    """Messages with such headers are set aside before they are sent, and hold up nothing."""
    good = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(8)])
    entries = list(good)
    for at, (name, (value, _)) in enumerate(UNSENDABLE.items()):
        message = json.loads(good[0][1])
        message["headers"][name] = value
        entries.insert(at * 3 + 1, (None, json.dumps(message)))
    outbox.put(*entries)
    outbox.relay()
    eventually(lambda: outbox.count() == len(good) and len(outbox.dead()) == len(UNSENDABLE))
    for reason, (_, expected) in zip(outbox.dead(), UNSENDABLE.values(), strict=True):
        assert expected in reason
    ids = [message.headers["id"] for message in outbox.take()]
    assert ids == [json.loads(text)["headers"]["id"] for _, text in good]
    assert "can't deliver" not in caplog.text


@pytest.mark.parametrize("name", UNSENDABLE)
def test_requests_with_headers_that_cannot_be_sent(outbox, eventually, caplog, name):
    """A task that SQL asks for with such headers is set aside, and the others are sent once."""
    app = outbox.app(outbox.url)
    value, expected = UNSENDABLE[name]

    def add(sender, headers, **_):
        if headers["id"] == "2":
            headers[name] = value

    before_task_publish.connect(add, sender="shop.invoice")
    requests = [json.dumps({"task": "shop.invoice", "id": str(n), "args": [n]}) for n in range(6)]
    try:
        outbox.put(*((None, one) for one in requests))
        outbox.relay(app)
        eventually(lambda: outbox.count() >= 5 and len(outbox.dead()) == 1)
    finally:
        before_task_publish.disconnect(add, sender="shop.invoice")
    assert [message.headers["id"] for message in outbox.take()] == ["0", "1", "3", "4", "5"]
    assert name == "number" or expected in outbox.dead()[0]
    assert "can't deliver" not in caplog.text


def test_exchanges_of_rabbitmq(outbox, eventually):
    """A message for an exchange of the app gets to its queues, which are declared."""
    name = secrets.token_hex(8)
    outbox.queues.append(name)
    topics = Exchange(f"topics-{name}", type="topic", auto_delete=True)
    conf = {"task_queues": [Queue(name, topics, routing_key="eu.#"), Queue(outbox.queue)]}
    made = outbox.make(lambda app: app.tasks["shop.invoice"].delay(1))
    message = json.loads(made[0][1])
    where = {"exchange": topics.name, "routing_key": "eu.fr"}
    message["properties"]["delivery_info"] = where
    outbox.put((None, json.dumps(message)))
    outbox.relay(outbox.app(outbox.url, **conf))
    eventually(lambda: outbox.count(name) == 1)


def test_a_queue_that_is_deleted(outbox, eventually, caplog):
    """A queue that was deleted meanwhile is declared again: what has no queue isn't lost."""
    caplog.set_level(logging.CRITICAL)
    made = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(4)])
    outbox.put(*made[:2])
    outbox.relay()
    eventually(lambda: outbox.count() == 2)
    with outbox.app(outbox.url).connection_for_read() as connection:
        connection.channel().queue_delete(outbox.queue)
    outbox.put(*made[2:])
    eventually(lambda: outbox.count() == 2)
    ids = {message.headers["id"] for message in outbox.take()}
    assert ids == {json.loads(text)["headers"]["id"] for _, text in made[2:]}
    assert outbox.dead() == []


def test_an_exchange_without_a_queue(outbox, eventually, caplog):
    """A message that no queue of the app's exchange is bound for is set aside."""
    caplog.set_level(logging.CRITICAL)
    name = secrets.token_hex(8)
    outbox.queues.append(name)
    topics = Exchange(f"topics-{name}", type="topic", auto_delete=True)
    conf = {"task_queues": [Queue(name, topics, routing_key="eu.#")]}
    good, bad = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(2)])
    entries = []
    for (key, text), where in ((good, "eu.fr"), (bad, "us.ny"), (good, "eu.it"), (bad, "us.la")):
        message = json.loads(text)
        message["properties"]["delivery_info"] = {"exchange": topics.name, "routing_key": where}
        message["properties"]["correlation_id"] = where
        entries.append((key, json.dumps(message)))
    outbox.put(*entries[:2])
    outbox.relay(outbox.app(outbox.url, **conf))
    eventually(lambda: outbox.count(name) == 1 and len(outbox.dead()) == 1)
    outbox.put(*entries[2:])
    eventually(lambda: outbox.count(name) == 2 and len(outbox.dead()) == 2)
    assert all("no queue is bound to the exchange" in reason for reason in outbox.dead())


def test_requests_of_sql_into_rabbitmq(outbox, eventually):
    """The app publishes what SQL asks for, in its order among the others."""
    made = outbox.make(lambda app: [app.tasks["shop.invoice"].delay(n) for n in range(2)])
    request = json.dumps({"task": "shop.invoice", "id": "sql", "args": [7]})
    outbox.put(made[0], (None, request), made[1])
    outbox.relay()
    eventually(lambda: outbox.count() == 3)
    assert outbox.take()[1].headers["id"] == "sql"


def test_events_in_rabbitmq(outbox, eventually):
    """The exchange for events is declared, as Celery does, and nobody has to be bound to it."""
    exchange = f"events-{secrets.token_hex(8)}"
    conf = {"event_exchange": exchange, "task_send_sent_event": True}
    app = outbox.app(outbox.url, **conf)
    outbox.put(*capture(app, lambda app: app.tasks["shop.invoice"].delay(1)))
    outbox.relay(app)
    eventually(lambda: outbox.count() == 1)
    with app.connection_for_write() as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange, "topic", passive=True)
        channel.exchange_delete(exchange)
    assert outbox.dead() == []


def test_a_queue_that_is_deleted_before_requests(outbox, eventually, caplog):
    """What SQL asks for isn't lost either, if its queue was deleted meanwhile."""
    caplog.set_level(logging.CRITICAL)
    requests = [json.dumps({"task": "shop.invoice", "id": str(n), "args": [n]}) for n in range(4)]
    outbox.put((None, requests[0]))
    outbox.relay()
    eventually(lambda: outbox.count() == 1)
    with outbox.app(outbox.url).connection_for_read() as connection:
        connection.channel().queue_delete(outbox.queue)
    outbox.put(*((None, one) for one in requests[1:]))
    eventually(lambda: outbox.count() == 3)
    assert {message.headers["id"] for message in outbox.take()} == {"1", "2", "3"}
    assert outbox.dead() == []
