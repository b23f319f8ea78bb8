"""The transaction that has notified: the `traceparent` in a payload.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pgnotifier.dispatch import Delivery

NAMES = ("traceparent", "tracestate")
MOST = 128
"""How many links a span has, as the SDK keeps no more of them."""

_propagator = TraceContextTextMapPropagator()
_nothing = Context()


def find_origin(payload: Any) -> SpanContext | None:
    """Return the ids in a payload: its keys `traceparent` and `tracestate`, or `context`'s.

    None if there are none, or they aren't valid.
    """
    if type(payload) is not dict:
        return None
    if "traceparent" not in payload:
        payload = payload.get("context")
        if type(payload) is not dict or "traceparent" not in payload:
            return None
    carrier = {name: one for name in NAMES if isinstance(one := payload.get(name), str)}
    found = get_current_span(_propagator.extract(carrier, _nothing)).get_span_context()
    return found if found.is_valid else None


def find_origins(delivery: Delivery) -> Iterator[SpanContext]:
    """Yield the ids in the payloads of a batch, or in the payload of a delivery."""
    whole = delivery.notification
    found = (find_origin(one.payload) for one in (whole.parts or (whole,))[:MOST])
    return (one for one in found if one is not None)


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
