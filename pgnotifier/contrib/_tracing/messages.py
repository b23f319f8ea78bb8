"""What a notification says of the transaction that has sent it, and what spans say of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from pgnotifier.dispatch import Delivery
from pgnotifier.notification import raw_of


def may_carry(payload: Any, name: str) -> bool:
    """Return whether it is worth it to look for a header in a payload."""
    return type(payload) is dict and (name in payload or "context" in payload)


def any_may_carry(deliveries: Iterable[Delivery], *names: str) -> bool:
    """Return whether it is worth it to look for headers in any of the payloads."""
    payloads = [one.notification.payload for one in deliveries]
    nested = [one for one in payloads if type(one) is dict]
    return any(name in one for name in (*names, "context") for one in nested)


def find_carried(payload: Any, name: str, others: Iterable[str] = ()) -> dict[str, str]:
    """Return a header that a payload carries, with others beside it.

    Args:
        payload: The payload. If it is a dict, headers are keys of it, or of its key `context`.
        name: The name of a header. If it is missing, nothing is returned.
        others: The names of further headers.
    """
    if type(payload) is not dict:
        return {}
    if name not in payload:
        payload = payload.get("context")
        if type(payload) is not dict or name not in payload:
            return {}
    return {each: one for each in (name, *others) if isinstance(one := payload.get(each), str)}


def hash_of(delivery: Delivery) -> int:
    """Return a random number that is the same for all deliveries of a notification."""
    # Python's hashes of texts are random in each process. The text isn't made of bytes for this.
    arrived = delivery.notification
    return hash((arrived.received_at, arrived.pid, arrived.id, raw_of(arrived)))


def describe(delivery: Delivery, operation: str) -> Mapping[str, Any]:
    """Return the attributes of a span, by the conventions for messaging.

    https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/

    Args:
        delivery: What is delivered.
        operation: `process` for a callback, or `receive` for what is handed to a queue.
    """
    arrived, subscription = delivery.notification, delivery.binding.subscription
    attributes: dict[str, Any] = {
        "messaging.system": "postgresql",
        "messaging.destination.name": arrived.channel,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.subscription.name": str(subscription.id),
    }
    if arrived.id is not None:
        attributes["messaging.message.id"] = str(arrived.id)
    if arrived.parts:
        attributes["messaging.batch.message_count"] = arrived.count
    return attributes
