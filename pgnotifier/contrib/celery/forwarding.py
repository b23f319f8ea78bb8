"""Forward the finished messages of an outbox to the broker, as they are."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from celery.events.event import get_exchange
from kombu.common import Broadcast, maybe_declare
from kombu.entity import Exchange, Queue
from kombu.transport import virtual

from pgnotifier.contrib.celery.carriers import Carrier
from pgnotifier.contrib.celery.errors import MessageRefusedError
from pgnotifier.contrib.celery.outbox_messages import Destination
from pgnotifier.contrib.celery.relay_messages import Message

_maybe_declare: Any = maybe_declare


class Forwarder(ABC):
    """Forwards messages with a carrier. Only the relay's thread uses it.

    Attributes:
        carrier: Sends them, and knows which of them the broker has acknowledged.
    """

    def __init__(self, app: Any, carrier: Carrier) -> None:
        """Begin without knowing where messages go.

        Args:
            app: The app with the queues.
            carrier: The carrier of the connected producer.
        """
        self.app = app
        self.carrier = carrier
        self.producer = carrier.producer

    def begin(self) -> None:  # noqa: B027 - there is nothing to do if nothing is kept
        """Forget what may have changed since the last messages."""

    def probe(self) -> None:  # noqa: B027 - other brokers name the message that they refuse
        """Check that the broker accepts some message.

        Raises:
            Exception: It doesn't. The type depends on its client.
        """

    @abstractmethod
    def forward(self, message: Message) -> None:
        """Add a message to the carrier, or send it.

        Raises:
            MessageRefusedError: The broker has nowhere to put it, or won't accept it.
            Exception: The broker is down. The type depends on its client.
        """

    def forward_many(self, texts: Iterable[bytes], tasks: list[str]) -> None:  # noqa: B027
        """Add messages to the carrier, or send them, up to the first entry that isn't simple.

        A simple entry is one message for the carrier. Others are left to `forward`: an entry that
        isn't a finished message, one that no queue would get, or one that isn't for just one queue.

        Args:
            texts: The entries, in UTF-8.
            tasks: The names of their tasks are appended, each before its message may be sent.

        Raises:
            Exception: The broker is down. The type depends on its client.
        """

    def settle(self) -> None:
        """Wait until the broker has acknowledged everything.

        Raises:
            Exception: It didn't. The type depends on its client.
        """
        self.carrier.settle()


class KombuForwarder(Forwarder):
    """Publishes messages one by one, with kombu's transport for the broker."""

    def forward(self, message: Message) -> None:
        """Publish a message."""
        content = message.open()
        exchange, routing_key, priority = message.destination
        for entity in find_entities(self.app, self.producer.connection, message.destination):
            _maybe_declare(entity, self.producer.channel)
        if exchange and not _has_queue(self.producer.channel, exchange, routing_key):
            raise nowhere(message.destination)
        given = dict(content.properties)
        if "expiration" in given:  # kombu takes seconds, and makes milliseconds of them
            given["expiration"] = int(given["expiration"]) / 1000
        self.producer.publish(
            content.body,
            exchange=exchange,
            routing_key=routing_key,
            priority=priority,
            content_type=content.content_type,
            content_encoding=content.content_encoding,
            headers=dict(content.headers),
            retry=False,
            **given,
        )


def find_entities(
    app: Any, connection: Any, destination: Destination
) -> Iterator[Queue | Exchange]:
    """Yield the queues and exchanges to declare for a destination, as Celery would have done.

    Celery declares the queue that it routes a message to. For a `Broadcast`, each worker declares a
    queue of its own, and only the exchange is the same for all. The same is true of events, which
    an app with `task_send_sent_event` publishes beside its tasks.

    Raises:
        MessageRefusedError: The app may not create the queue.
    """
    queues: Any = app.amqp.queues
    if not destination.exchange:
        try:
            queue: Any = queues[destination.routing_key]
        except KeyError:  # `task_create_missing_queues` is off
            return
        if not isinstance(queue, Broadcast) and queue.name == destination.routing_key:
            yield queue
        return
    if destination.exchange == app.conf.event_exchange:
        yield get_exchange(connection, destination.exchange)
    for queue in tuple(queues.values()):
        exchange = queue.exchange
        if exchange is None or exchange.name != destination.exchange:
            continue
        if isinstance(queue, Broadcast) or not _may_get(queue, destination):
            yield exchange
        else:
            yield queue


def is_queue(entity: Queue | Exchange) -> bool:
    """Return whether it is a queue that gets what is sent to it even if nobody listens."""
    return isinstance(entity, Queue) and entity.exchange.type != "fanout"


def _may_get(queue: Any, destination: Destination) -> bool:
    """Return whether a message that is sent to a queue's exchange may be for this queue."""
    return bool(queue.exchange.type != "direct" or queue.routing_key == destination.routing_key)


def _has_queue(channel: Any, exchange: str, routing_key: str) -> bool:
    """Return whether an exchange has a queue for a routing key.

    Where kombu itself does the routing, it drops a message without one. For a fanout, that is
    as it should be: only those who listen get the message.
    """
    if not isinstance(channel, virtual.Channel) or channel.typeof(exchange).type == "fanout":
        return True
    return bool(channel._lookup(exchange, routing_key))  # noqa: SLF001 - as it does itself


def nowhere(destination: Destination) -> MessageRefusedError:
    """Return the error for a destination that no queue is bound to."""
    return MessageRefusedError(
        f"no queue is bound to the exchange {destination.exchange!r:.200} with the routing key "
        f"{destination.routing_key!r:.200}, so the message would be lost; start a worker that "
        "declares it, or name the queue in the app's task_queues, then retry the entry"
    )
