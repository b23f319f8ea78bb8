"""The transaction that has notified: the `traceparent` in a payload.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

from collections.abc import Iterator
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pgnotifier.contrib._tracing.messages import find_carried
from pgnotifier.dispatch import Delivery

TRACEPARENT = "traceparent"
MOST = 128
"""How many links a span has, as the SDK keeps no more of them."""

_propagator = TraceContextTextMapPropagator()
_nothing = Context()


def find_origin(payload: Any) -> SpanContext | None:
    """Return the ids in a payload: its keys `traceparent` and `tracestate`, or `context`'s.

    None if there are none, or they aren't valid.
    """
    if not (carrier := find_carried(payload, TRACEPARENT, ("tracestate",))):
        return None
    found = get_current_span(_propagator.extract(carrier, _nothing)).get_span_context()
    return found if found.is_valid else None


def find_origins(delivery: Delivery) -> Iterator[SpanContext]:
    """Yield the ids in the payloads of a batch, or in the payload of a delivery."""
    whole = delivery.notification
    found = (find_origin(one.payload) for one in (whole.parts or (whole,))[:MOST])
    return (one for one in found if one is not None)
