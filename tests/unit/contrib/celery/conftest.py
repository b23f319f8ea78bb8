"""Fixtures of the Celery dispatcher's tests: an app with a broker in memory."""

import secrets
import weakref
from datetime import UTC, datetime
from types import MappingProxyType

import msgspec
import pytest
from celery import Celery, _state, signals
from kombu import serialization
from kombu.transport import memory, virtual

from pgnotifier import Batch, Delivery, Notification, Subscription
from pgnotifier.contrib.celery import CeleryDispatcher, configured
from pgnotifier.contrib.celery.stamping_amqp import AmqpStamp
from pgnotifier.contrib.celery.stamping_kombu import KombuStamp
from pgnotifier.contrib.celery.stamping_redis import RedisStamp
from pgnotifier.dispatch import Binding
from pgnotifier.payload import decode

# A serializer that knows fewer types than JSON does: no surrogates, no ints of over 64 bits.
serialization.register(
    "msgspec",
    msgspec.msgpack.encode,
    msgspec.msgpack.decode,
    content_type="application/x-msgspec",
    content_encoding="binary",
)
CONTENT_TYPES = {"application/json", "application/x-python-serialize", "application/x-msgspec"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Desk:
    """Subscribes to a dispatcher, and hands it notifications, as a notifier would."""

    def __init__(self, app, **settings):
        self.app = app
        self.dispatcher = CeleryDispatcher(app, **settings)
        self.reported = []

    def subscribe(self, fn, id="a", channel="ch", **options):
        """Bind a subscription."""
        subscription = Subscription(id, channel, fn, self.dispatcher, MappingProxyType(options))
        target = self.dispatcher.bind(subscription)
        return Binding(subscription, target, lambda exc, *_: self.reported.append(exc))

    def deliver(self, binding, *raws):
        """Dispatch notifications with these raw payloads; return what is left of the batch."""
        return self.dispatch(*((binding, raw) for raw in raws))

    def dispatch(self, *pairs):
        """Dispatch pairs of a binding and a raw payload; return what is left of the batch."""
        batch = Batch(self.deliveries(*pairs))
        self.dispatcher.dispatch(batch)
        return batch.rest()

    def deliveries(self, *pairs):
        """Return deliveries, given pairs of a binding and a raw payload."""
        return [
            Delivery(
                binding,
                Notification(binding.subscription.channel, decode(raw), raw, 7, NOW),
            )
            for binding, raw in pairs
        ]

    def messages(self, queue=None):
        """Take the messages out of a queue, as the worker would see them."""
        name = queue or self.app.conf.task_default_queue
        found = []
        with self.app.connection_for_read() as connection:
            channel = connection.channel()
            channel.queue_declare(queue=name)
            while message := channel.basic_get(name, no_ack=True):
                message.accept = CONTENT_TYPES
                found.append(message)
        return found

    def arguments(self, queue=None):
        """Take the messages out of a queue, and return their arguments."""
        return [message.payload[0] for message in self.messages(queue)]

    def run(self):
        """Do what a worker would do: run the tasks of all messages."""
        for message in self.messages():
            args, kwargs, _ = message.payload
            self.app.tasks[message.headers["task"]](*args, **kwargs)


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """Isolate the test from what Celery, kombu and pgnotifier share in a process.

    That is: shared tasks and subscriptions, and the apps and notifiers that get them; the current
    app (an earlier test's may be closed, and then gets no `@shared_task`); the messages in memory.
    """
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state._tls, "current_app", None)
    monkeypatch.setattr(configured, "_shared", [])
    monkeypatch.setattr(configured, "_notifiers", weakref.WeakSet())
    monkeypatch.setattr(memory.Channel, "queues", {})
    monkeypatch.setattr(memory.Transport, "global_state", virtual.BrokerState())
    for signal in (signals.before_task_publish, signals.after_task_publish, signals.task_sent):
        # A receiver isn't connected while a dead one with the same address is still listed.
        monkeypatch.setattr(signal, "receivers", [])


@pytest.fixture
def app():
    """Return an app with a broker in memory, and a queue of its own there."""
    return Celery(
        "shop", broker="memory://", task_default_queue=secrets.token_hex(8), set_as_current=False
    )


@pytest.fixture
def desk(app):
    """Return a desk with a dispatcher of the app."""
    return Desk(app)


@pytest.fixture
def make_desk():
    """Yield a function that makes desks, and close their connections afterwards."""
    made = []

    def make(app, **settings):
        made.append(Desk(app, **settings))
        return made[-1]

    yield make
    for desk in made:
        desk.dispatcher.close()


@pytest.fixture
def make_app(pgnotifier_redis_url):
    """Return a function that makes an app with a real broker."""

    def make(**conf):
        app = Celery("shop", broker=pgnotifier_redis_url, set_as_current=False)
        app.conf.update({"result_backend": pgnotifier_redis_url, **conf})
        return app

    return make


@pytest.fixture
def pressed(monkeypatch):
    """Return the ids of the tasks that stamped messages were made for."""
    ids = []

    def count(kind):
        press = kind.press

        def counting(self, given, task_id):
            ids.append(task_id)
            return press(self, given, task_id)

        monkeypatch.setattr(kind, "press", counting)

    for kind in (RedisStamp, AmqpStamp, KombuStamp):
        count(kind)
    press_all = RedisStamp.press_all

    def counting_all(self, target, deliveries, given, added=None):
        ids.extend(given)
        return press_all(self, target, deliveries, given, added)

    monkeypatch.setattr(RedisStamp, "press_all", counting_all)
    return ids
