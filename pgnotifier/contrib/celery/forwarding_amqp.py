"""Forward an outbox's finished messages to RabbitMQ, waiting for the confirms of many at once."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from struct import Struct, pack
from typing import Any

from amqp import basic_message, exceptions, serialization
from kombu.common import maybe_declare

from pgnotifier.contrib.celery.broker import ANSWER_TIMEOUT
from pgnotifier.contrib.celery.carriers_amqp import AmqpCarrier
from pgnotifier.contrib.celery.errors import MessageRefusedError
from pgnotifier.contrib.celery.forwarding import Forwarder, find_entities, is_queue, nowhere
from pgnotifier.contrib.celery.outbox_messages import Destination
from pgnotifier.contrib.celery.relay_messages import (
    Content,
    Message,
    open_content,
    read_finished,
)
from pgnotifier.contrib.celery.stamping_amqp import (
    UNSENDABLE,
    check_finite,
    encode_frames,
    join_frames,
    unsendable,
)
from pgnotifier.errors import in_one_line

_Message: Any = basic_message.Message
_encode: Any = serialization.dumps
_pack_size = Struct(">I").pack
_maybe_declare: Any = maybe_declare
_REFUSALS: Any = (exceptions.NotFound, exceptions.PreconditionFailed)
_RESERVED = "contains reserved prefix"


class AmqpForwarder(Forwarder):
    """Publishes messages as the frames that py-amqp would send.

    Attributes:
        carrier: Sends them, and knows which of them RabbitMQ has confirmed.
    """

    carrier: AmqpCarrier

    def __init__(self, app: Any, producer: Any) -> None:
        """Put the producer's channel into confirm mode."""
        super().__init__(app, AmqpCarrier(producer, app))
        self._channel = producer.channel
        self._methods: dict[Destination, bytes] = {}
        self._fresh: set[Destination] = set()
        self._sent: dict[Any, tuple[int, Destination]] = {}
        self._channel.events["basic_return"].add(self._on_return)

    def begin(self) -> None:
        """Forget the last messages, and that their queues have just been found."""
        self._fresh.clear()
        self._sent.clear()

    def probe(self) -> None:
        """Publish a message that no queue gets. RabbitMQ confirms it and drops it."""
        with self.producer.connection.channel() as channel:
            nobody = secrets.token_hex(16)
            channel.basic_publish_confirm(_Message(""), "", nobody, confirm_timeout=ANSWER_TIMEOUT)

    def forward(self, message: Message) -> None:
        """Add the frames of a message."""
        content = message.open()
        frames = self._make_frames(message.destination, content)
        self._add(frames, message.destination, content)

    def forward_many(self, texts: Iterable[bytes], tasks: list[str]) -> None:
        """Add the frames of messages, up to the first entry that isn't one or can't be sent."""
        for text in texts:
            found = read_finished(text)
            if found is None:
                break
            destination = found.destination
            try:
                content = open_content(text)
                frames = self._make_frames(destination, content)
            except Exception:  # noqa: BLE001 - `forward` comes to it, too
                break
            tasks.append(found.headers.task)
            self._add(frames, destination, content)

    def _make_frames(self, destination: Destination, content: Content) -> bytes:
        method = self._methods.get(destination) or self._find(destination)
        body = content.body
        if isinstance(body, str):
            body = body.encode(content.content_encoding)
        try:
            properties = encode_properties(content, destination.priority)
        except UNSENDABLE as exc:
            raise unsendable(exc) from None
        return join_frames(self._channel, method, properties, body)

    def _add(self, frames: bytes, destination: Destination, content: Content) -> None:
        """Add the frames of a message, and remember what it is, in case it is returned."""
        position = self.carrier.position + 1
        self._sent[content.properties.get("correlation_id")] = position, destination
        self.carrier.add(frames)

    def _on_return(self, error: Any, exchange: str, routing_key: str, message: Any) -> None:  # noqa: ARG002
        """Leave a message that no queue has got for another attempt, or refuse it.

        RabbitMQ returns the message before it confirms it. If its queue existed before, the queue
        has been deleted or has expired since, and is declared again with the next connection.
        """
        found = self._sent.get(message.properties.get("correlation_id"))
        if found is None:
            return
        position, destination = found
        if destination in self._fresh:
            self.carrier.refused[position] = nowhere(destination)
        else:
            self.carrier.refuse(position)

    def _find(self, destination: Destination) -> bytes:
        """Return the `basic.publish` frame of a destination, once the broker knows the destination.

        RabbitMQ closes a channel on which something is refused, and what it hasn't confirmed there
        is lost. So queues and exchanges are declared and looked up on another channel.
        """
        exchange, routing_key, _ = destination
        entities = list(find_entities(self.app, self.producer.connection, destination))
        with self.producer.connection.channel() as channel:
            try:
                for entity in entities:
                    _maybe_declare(entity, channel)
                if exchange:
                    channel.exchange_declare(exchange, "direct", passive=True)  # any type will do
                elif not entities:
                    channel.queue_declare(routing_key, passive=True)
            except exceptions.ChannelError as exc:
                if not is_refusal(exc):
                    raise
                where = f"exchange {exchange!r:.200}" if exchange else f"queue {routing_key!r:.200}"
                raise MessageRefusedError(
                    f"the broker refuses the {where}: {in_one_line(exc)}"
                ) from exc
        # What is mandatory is returned if no queue gets it. What goes to a fanout, or to an
        # exchange without a known queue, may be lost if nobody listens.
        mandatory = not exchange or any(map(is_queue, entities))
        settings = {"mandatory": mandatory, "immediate": False}
        given = {"exchange": exchange, "routing_key": routing_key, **settings}
        method = encode_frames(self._channel, given)
        self._methods[destination] = method
        self._fresh.add(destination)
        return method


def is_refusal(exc: BaseException) -> bool:
    """Return whether RabbitMQ refuses something for good. It closes the channel with such an error.

    Access may be granted later, but not to a queue with a name that only RabbitMQ may give:
    https://www.rabbitmq.com/docs/queues#names
    """
    if isinstance(exc, exceptions.AccessRefused):
        return _RESERVED in str(exc)
    return isinstance(exc, _REFUSALS)


def is_closure(exc: BaseException) -> bool:
    """Return whether RabbitMQ may have closed the connection because of what was sent.

    It doesn't close it with such an error because it is stopped or short of something.
    """
    return isinstance(exc, exceptions.IrrecoverableConnectionError)


def encode_properties(content: Content, priority: int) -> bytes:
    """Return the properties of a message as py-amqp encodes them, in a fifth of the time.

    https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, sections 4.2.5.5 and 4.2.6.1.

    Args:
        content: The message.
        priority: Its priority.
    """
    given = {
        **content.properties,
        "content_type": content.content_type,
        "content_encoding": content.content_encoding,
        "application_headers": content.headers,
        "priority": priority,
    }
    flags, parts = 0, [b""]
    for bit, name, encode in _PROPERTIES:
        value = given.get(name)
        if value is not None:
            flags |= 1 << bit
            parts.append(encode(value))
    parts[0] = pack(">H", flags)
    return b"".join(parts)


def _encode_short(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return pack("B", len(data)) + data


def _encode_table(table: Mapping[str, Any]) -> bytes:
    parts = [
        _encode_text(name, value)
        if type(value) is str
        else _ITEMS.get((name, value if value is None else repr(value)))
        or _encode_item(name, value)
        for name, value in table.items()
    ]
    data = b"".join(parts)
    return pack(">I", len(data)) + data


def _encode_text(name: str, text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return (_NAMES.get(name) or _encode_name(name)) + _pack_size(len(data)) + data


def _encode_name(name: str) -> bytes:
    """Return a name encoded as before a text, and keep it."""
    encoded = _encode_short(name) + b"S"
    if len(_NAMES) < MOST_KEPT:
        _NAMES[name] = encoded
    return encoded


def _encode_item(name: str, value: Any) -> bytes:
    """Return a name and its value, and keep them if they are short: most messages have them."""
    check_finite({name: value})
    whole: bytes = _encode("F", [{name: value}])
    encoded = whole[4:]  # without its length
    if len(encoded) < LONGEST_KEPT and len(_ITEMS) < MOST_KEPT:
        _ITEMS[name, value if value is None else repr(value)] = encoded
    return encoded


MOST_KEPT = 1000
LONGEST_KEPT = 100
"""How many items of tables are kept encoded, and up to how many bytes."""
_NAMES: dict[str, bytes] = {}
_ITEMS: dict[tuple[str, str | None], bytes] = {}
"""Items that aren't texts, by the name and the repr of the value; all are of JSON's types."""
_PROPERTIES: tuple[tuple[int, str, Callable[[Any], bytes]], ...] = (
    (15, "content_type", _encode_short),
    (14, "content_encoding", _encode_short),
    (13, "application_headers", _encode_table),
    (12, "delivery_mode", lambda value: pack("B", value)),
    (11, "priority", lambda value: pack("B", value)),
    (10, "correlation_id", _encode_short),
    (9, "reply_to", _encode_short),
    (8, "expiration", _encode_short),
    (7, "message_id", _encode_short),
    (6, "timestamp", lambda value: pack(">Q", value)),
    (5, "type", _encode_short),
    (4, "user_id", _encode_short),
    (3, "app_id", _encode_short),
    (2, "cluster_id", _encode_short),
)
"""The bit of each property, and how its value is encoded, in this order."""
