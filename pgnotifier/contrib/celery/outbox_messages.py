"""Define how a message for a worker is stored in the durable log: as an entry's key and payload.

    message       the dict that a virtual transport of kombu publishes: "body", "content-type",
                  "content-encoding", "headers" and "properties"
    payload       its JSON, which is the very text that the transport for Redis pushes to a list
    key           where it goes: exchange, routing key and priority, joined by U+001F

A relay for Redis pushes the payload as it is, and `relay_messages` reads what other relays need.
The key is only for those who look into the log.

https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.virtual.html describes
such transports.
"""

from typing import Any, NamedTuple

from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery.errors import MessageFormatError

SEPARATOR = "\x1f"
"""The separator between the parts of a key."""

CHANNELS = "pgnotifier:celery:"
"""The prefix of the log's channels with messages for workers."""

_dump: Any = kombu_json.dumps


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


def channel_of(name: str) -> str:
    """Return the log's channel for the messages of an outbox."""
    return CHANNELS + name


def subscription_of(main: str) -> str:
    """Return the name of the subscription of an app's relay, given the name of the app."""
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
    priority = read_priority(properties.get("priority"))
    return f"{names[0]}{SEPARATOR}{names[1]}{SEPARATOR}{priority}", _dump(message)


def read_priority(given: Any) -> int:
    """Return the priority as a number: kombu takes anything that isn't a number for the lowest."""
    try:
        return int(given)
    except (TypeError, ValueError):
        return 0
