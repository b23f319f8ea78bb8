"""Messages for RabbitMQ: they equal those that `apply_async` sends, and are confirmed."""

import contextlib
import secrets
import socket

import amqp
import pytest
from brokered import TEXTS, callback
from cases import STAMPED
from celery import Celery, group
from kombu import Exchange, Queue
from kombu.common import Broadcast
from kombu.exceptions import OperationalError

from pgnotifier import Batch
from pgnotifier.contrib.celery import publisher as publisher_module
from pgnotifier.contrib.celery.carriers_amqp import _ACK, AmqpCarrier

REDIS_ONLY = {"a key prefix", "a separator of priorities"}


@pytest.fixture
def app(rabbitmq):
    """Return an app with RabbitMQ as its broker, and a queue of its own there."""
    app = Celery("shop", broker=rabbitmq.url, set_as_current=False)
    app.conf.task_default_queue = secrets.token_hex(8)
    return app


def take_from(channel, name):
    """Yield the messages in a queue."""
    while (raw := channel.basic_get(name, no_ack=True)) is not None:
        yield channel.message_to_python(raw)


@pytest.fixture
def take(app):
    """Yield a function that takes all messages out of the app's queues."""
    names = (app.conf.task_default_queue, "low")

    def take():
        found = {}
        with app.connection_for_read() as connection:
            for name in names:
                with contextlib.suppress(amqp.NotFound), connection.channel() as channel:
                    channel.queue_declare(name, passive=True)
                    if messages := list(take_from(channel, name)):
                        found[name] = messages
        return found

    yield take
    with app.connection_for_read() as connection, connection.channel() as channel:
        for name in names:
            channel.queue_delete(name)


def normalised(message):
    """Return a message without ids and times, and with its body as the worker sees it."""
    message.accept = {message.content_type}
    properties, headers = dict(message.properties), dict(message.headers)
    del properties["application_headers"]
    task_id = properties.pop("correlation_id")
    if "expiration" in properties:
        assert 0 < int(properties.pop("expiration")) <= 3_600_000
    for name in ("eta", "expires"):
        headers[name] = bool(headers[name])
    shown = {name: "ID" if value == task_id else value for name, value in headers.items()}
    info = {k: message.delivery_info[k] for k in ("exchange", "routing_key")}
    return shown, properties, info, repr(message.payload)


@pytest.mark.parametrize("case", sorted(STAMPED.keys() - REDIS_ONLY))
def test_conformance(app, make_desk, pressed, take, monkeypatch, case):
    """Stamped messages are the same as if Celery had made each."""
    make_fn, options, conf = STAMPED[case]
    app.conf.update(conf)
    desk = make_desk(app)
    binding = desk.subscribe(make_fn(app), **options)
    desk.deliver(binding, *TEXTS)
    take()
    del pressed[:]
    assert not desk.deliver(binding, *TEXTS)
    assert len(pressed) >= len(TEXTS) - 2
    found = {queue: [*map(normalised, messages)] for queue, messages in take().items()}
    assert [len(messages) for messages in found.values()] == [len(TEXTS)]
    del pressed[:]
    monkeypatch.setattr(publisher_module, "find_receivers", lambda: "none, but as if")
    assert not desk.deliver(binding, *TEXTS)
    assert not pressed
    expected = {queue: [*map(normalised, messages)] for queue, messages in take().items()}
    assert found == expected
    assert desk.reported == []


def test_a_named_exchange(app, make_desk, pressed, take):
    """Messages to an exchange reach the queue that is bound to it."""
    desk = make_desk(app)
    queue = Queue("low", Exchange("topics", "topic"), routing_key="orders.#")
    binding = desk.subscribe(callback, queue=queue, routing_key="orders.paid")
    desk.deliver(binding, *TEXTS)
    (messages,) = take().values()
    assert len(messages) == len(TEXTS)
    assert len(pressed) == len(TEXTS) - 1  # one of them for comparison


def test_large_bodies(app, make_desk, take):
    """Bodies that take several frames arrive whole."""
    desk = make_desk(app)
    app.conf.broker_transport_options = {"frame_max": 4096}
    texts = [letter * 7999 for letter in "abcd"]
    desk.deliver(desk.subscribe(callback), *texts)
    (messages,) = take().values()
    assert [message.decode()[0][2] for message in messages] == texts


def test_counts_what_others_publish(app, make_desk, take):
    """Messages that `apply_async` publishes between stamped ones are confirmed as well."""
    desk = make_desk(app)
    task = app.task(callback, name="one")
    one = desk.subscribe(callback)
    three = desk.subscribe(group(task.s(), task.s(), task.s()), id="three")
    assert not desk.dispatch(*[(one, "1"), (three, "2"), (one, "3")] * 200)
    (messages,) = take().values()
    assert len(messages) == 1000


def test_many_queues(app, make_desk, take):
    """Tasks that alternate between queues are confirmed, whatever acks the broker sends."""
    desk = make_desk(app)
    one, two = desk.subscribe(callback), desk.subscribe(callback, id="two", queue="low")
    assert not desk.dispatch(*(((one, two)[n % 2], str(n)) for n in range(3000)))
    found = {name: [m.decode()[0][2] for m in messages] for name, messages in take().items()}
    assert found == {
        app.conf.task_default_queue: list(range(0, 3000, 2)),
        "low": list(range(1, 3000, 2)),
    }


@pytest.mark.parametrize("stamps", [True, False])
def test_a_queue_that_is_deleted(app, make_desk, take, stamps):
    """What RabbitMQ has no queue for isn't lost: with the next connection, it is declared again."""
    desk = make_desk(app)
    fn = callback if stamps else app.task(name="own")(callback)
    binding = desk.subscribe(fn, **({} if stamps else {"link": app.signature("own")}))
    assert not desk.deliver(binding, *TEXTS)
    assert len(take().popitem()[1]) == len(TEXTS)
    with app.connection_for_write() as connection:
        connection.channel().queue_delete(app.conf.task_default_queue)
    batch = Batch(desk.deliveries(*((binding, text) for text in TEXTS)))
    with pytest.raises(OperationalError, match="was deleted"):
        desk.dispatcher.dispatch(batch)
    assert batch.remaining == len(TEXTS)
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    assert len(take().popitem()[1]) == len(TEXTS)
    assert desk.reported == []


def test_what_no_queue_is_bound_for(app, make_desk, take):
    """What no queue of the app's exchange gets is reported, and the others arrive."""
    topics = Exchange(secrets.token_hex(8), "topic", auto_delete=True)
    name = app.conf.task_default_queue
    app.conf.task_queues = [Queue(name, topics, routing_key="eu.#")]
    desk = make_desk(app)
    there = desk.subscribe(callback, exchange=topics.name, routing_key="eu.fr")
    nowhere = desk.subscribe(callback, id="b", exchange=topics.name, routing_key="us.ny")
    assert not desk.dispatch((there, "1"), (nowhere, "2"), (there, "3"), (nowhere, "4"))
    assert [m.decode()[0][2] for m in take()[name]] == [1, 3]
    assert len(desk.reported) == 2
    assert all("no queue is bound to the exchange" in str(one) for one in desk.reported)


def test_a_fanout_without_listeners(app, make_desk):
    """What goes to a fanout is for whoever listens, and so is what goes to another's exchange."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        topics, fanout = (
            Exchange(secrets.token_hex(8), kind, auto_delete=False)(channel)
            for kind in ("topic", "fanout")
        )
        topics.declare()
        fanout.declare()
    app.conf.task_queues = [Broadcast(fanout.name), Queue(app.conf.task_default_queue)]
    desk = make_desk(app)
    everyone = desk.subscribe(callback, queue=fanout.name)
    elsewhere = desk.subscribe(callback, id="b", exchange=topics.name, routing_key="a")
    assert not desk.dispatch((everyone, "1"), (elsewhere, "2"), (everyone, "3"))
    assert desk.reported == []
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.exchange_delete(topics.name)
        channel.exchange_delete(fanout.name)


def test_acks_that_come_in_pieces(app, make_desk, carrier, monkeypatch):
    """Many acks are read at once; incomplete and other frames are left in py-amqp's buffer."""
    desk = make_desk(app)
    desk.deliver(desk.subscribe(callback), "1")
    (one,) = carrier
    answered, number = [], one._channel.channel_id
    monkeypatch.setattr(one, "_answered", lambda *ack: answered.append(ack) or [])
    ack = [_ACK.pack(1, number, 13, 60, 80, at, at % 2, 0xCE) for at in (1, 2, 3)]
    nack = _ACK.pack(1, number, 13, 60, 120, 4, 0, 0xCE)
    transport = one._channel.connection.transport
    ours, theirs = socket.socketpair()
    with ours, theirs, monkeypatch.context() as patch:
        patch.setattr(transport, "sock", ours)
        one._take_acks()  # nothing has come
        assert answered == []
        theirs.sendall(ack[0] + ack[1][:9])
        one._take_acks()
        theirs.sendall(ack[1][9:] + nack + ack[2])
        one._take_acks()
        assert answered == [(1, True), (2, False)]
        assert transport._read_buffer == nack + ack[2]
    transport._read_buffer = b""


@pytest.fixture
def carrier(monkeypatch):
    """Return the carriers that were made, as a list."""
    made, init = [], AmqpCarrier.__init__

    def noting(self, *given):
        init(self, *given)
        made.append(self)

    monkeypatch.setattr(AmqpCarrier, "__init__", noting)
    return made


def test_a_connection_lost_before_the_confirms(app, make_desk, carrier, take, monkeypatch):
    """Messages that weren't confirmed are published again with the same ids; the others aren't."""
    desk = make_desk(app)
    binding = desk.subscribe(callback)
    desk.deliver(binding, "1", "2")
    texts = [str(number) for number in range(3, 253)]  # three portions
    batch = Batch(desk.deliveries(*[(binding, text) for text in texts]))
    sends, write = [], carrier[0]._channel.connection.transport.write

    def losing(data):
        sends.append(data)
        write(data)
        if len(sends) == 2:
            # The first portion is confirmed; whether the second one has arrived is unknown.
            while 102 in carrier[0]._unconfirmed:
                carrier[0]._channel.connection.drain_events(timeout=10)
            raise ConnectionResetError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(carrier[0]._channel.connection.transport, "write", losing)
        with pytest.raises(ConnectionResetError):
            desk.dispatcher.dispatch(batch)
    assert 0 < batch.remaining <= 150
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    (messages,) = take().values()
    shown = [(m.headers["id"], m.headers["argsrepr"].split(", ")[2]) for m in messages]
    assert [text for _, text in shown[:2]] == ["1", "2"]
    assert {text for _, text in shown} == {"1", "2", *texts}
    # Those in doubt may be there twice, with the same id.
    assert len(set(shown)) == len({task_id for task_id, _ in shown}) == 252
    assert len(shown) <= 252 + 100


def test_messages_that_the_broker_refuses(app, make_desk, take):
    """If a full queue refuses messages, they stay in the batch, and the next attempt sends them."""
    desk = make_desk(app)
    limits = {"x-max-length": 3, "x-overflow": "reject-publish"}
    binding = desk.subscribe(callback, queue=Queue("low", queue_arguments=limits))
    batch = Batch(desk.deliveries(*[(binding, str(number)) for number in range(6)]))
    with pytest.raises(OperationalError, match="refused"):
        desk.dispatcher.dispatch(batch)
    assert [delivery.notification.raw for delivery in batch.rest()] == ["3", "4", "5"]
    assert len(take()["low"]) == 3
    desk.dispatcher.dispatch(batch)
    assert [m.decode()[0][2] for m in take()["low"]] == [3, 4, 5]


def test_a_broker_that_does_not_confirm(app, make_desk, carrier, monkeypatch):
    """If the broker doesn't confirm within a timeout, the attempt fails, and the batch is kept."""
    desk = make_desk(app)
    binding = desk.subscribe(callback)
    desk.deliver(binding, "1", "2")
    monkeypatch.setattr("pgnotifier.contrib.celery.carriers_amqp.ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(carrier[0]._channel.connection.transport, "write", lambda _: None)
    batch = Batch(desk.deliveries((binding, "3")))
    with pytest.raises((OperationalError, TimeoutError)):
        desk.dispatcher.dispatch(batch)
    assert batch.remaining == 1
