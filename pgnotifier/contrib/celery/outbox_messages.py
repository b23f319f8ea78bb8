"""Define how a message for a worker is kept in the durable log: as the key and payload of an entry.

    message       the dict that a virtual transport of kombu publishes: "body", "content-type",
                  "content-encoding", "headers" and "properties"
    payload       its JSON, which is the very text that the transport for Redis pushes to a list
    key           where it goes: exchange, routing key and priority, joined by U+001F

A relay for Redis so pushes the payload as it is, and reads no more than the key. Other relays read
the message again with `parse`.

https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.virtual.html describes
such transports.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from kombu.transport.virtual import Base64
from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery.errors import MessageFormatError

SEPARATOR = "\x1f"
"""What is between the parts of a key."""

CHANNELS = "pgnotifier:celery:"
"""What the names of the log's channels begin with that hold messages for workers."""

_dump: Any = kombu_json.dumps
_load: Any = kombu_json.loads
_base64: Any = Base64()


class Destination(NamedTuple):
    """Where a message goes.

    Attributes:
        exchange: The exchange's name; empty for the default exchange.
        routing_key: The routing key. For the default exchange, it is the queue's name.
        priority: The message's priority, as it was given. Each transport limits it by itself.
    """

    exchange: str
    routing_key: str
    priority: int


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message that has been read from an entry.

    Attributes:
        destination: Where it goes.
        body: The body, as the serializer has written it, and compressed if it is.
        content_type: The name of what the serializer writes.
        content_encoding: The encoding of that.
        headers: The headers of the message.
        properties: The other properties. `priority`, `delivery_info`, `delivery_tag` and
            `body_encoding` aren't among them.
    """

    destination: Destination
    body: str | bytes
    content_type: str
    content_encoding: str
    headers: dict[str, Any]
    properties: dict[str, Any]


def channel_of(name: str) -> str:
    """Return the log's channel for the messages of an outbox."""
    return CHANNELS + name


def subscription_of(main: str) -> str:
    """Return the name that the relay of an app has in the log, given the name of the app."""
    return f"outbox:celery:{main}"


def make(message: dict[str, Any]) -> tuple[str, str]:
    """Return the key and the payload of the entry for a message.

    Args:
        message: The message, with its `delivery_info`, as a virtual transport publishes it.

    Raises:
        MessageFormatError: A name contains U+001F.
        TypeError: A header has a type that kombu can't write as JSON.
    """
    properties = message["properties"]
    where = properties["delivery_info"]
    names = where["exchange"] or "", where["routing_key"] or ""
    if SEPARATOR in names[0] or SEPARATOR in names[1]:
        raise MessageFormatError(
            f"exchange {names[0]!r:.80} or routing key {names[1]!r:.80} contains U+001F, which "
            "separates them in the log; rename it"
        )
    priority = _read_priority(properties.get("priority"))
    return f"{names[0]}{SEPARATOR}{names[1]}{SEPARATOR}{priority}", _dump(message)


def parse_key(key: str | None) -> Destination:
    """Return where a message goes, given the key of its entry.

    Raises:
        MessageFormatError: It isn't such a key.
    """
    parts = (key or "").split(SEPARATOR)
    if len(parts) != 3 or not (parts[0] or parts[1]):
        raise MessageFormatError(f"{key!r:.80} isn't the key of a message")
    try:
        return Destination(parts[0], parts[1], int(parts[2]))
    except ValueError:
        raise MessageFormatError(f"{key!r:.80} isn't the key of a message") from None


def parse(key: str | None, payload: str) -> OutboxMessage:
    """Return the message of an entry.

    Raises:
        MessageFormatError: The entry holds no message.
    """
    destination = parse_key(key)
    # The reason isn't shown: it may quote the payload.
    try:
        message = _load(payload)
        properties = dict(message["properties"])
        body = _decode_body(message["body"], properties.pop("body_encoding", None))
        for name in ("priority", "delivery_info", "delivery_tag"):
            properties.pop(name, None)
        return OutboxMessage(
            destination,
            body,
            message["content-type"],
            message["content-encoding"],
            dict(message["headers"]),
            properties,
        )
    except (ValueError, TypeError, KeyError):
        raise MessageFormatError(
            f"an entry for {_show(destination)} holds no message of kombu"
        ) from None


def _read_priority(given: Any) -> int:
    """Return the priority as a number: kombu takes anything that is none for the lowest."""
    try:
        return int(given)
    except (TypeError, ValueError):
        return 0


def _decode_body(body: Any, encoding: str | None) -> str | bytes:
    if encoding == "base64":
        data: bytes = _base64.decode(body)
        return data
    if not isinstance(body, str | bytes):
        raise TypeError
    return body


def _show(destination: Destination) -> str:
    exchange, routing_key, _ = destination
    return f"exchange {exchange!r}, routing key {routing_key!r}" if exchange else repr(routing_key)
