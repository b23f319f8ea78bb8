"""Make the spans of notifications."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from pgnotifier._runtime.tracing import Choose
from pgnotifier.contrib._tracing.handing import HandingOver
from pgnotifier.contrib._tracing.messages import (
    any_may_carry,
    describe,
    hash_of,
    may_carry,
)
from pgnotifier.contrib._tracing.recent import Recent
from pgnotifier.contrib.opentelemetry.origins import TRACEPARENT, find_origin, find_origins
from pgnotifier.contrib.opentelemetry.sampling import SCALE, Decision
from pgnotifier.dispatch import Delivery

_NOTHING = Context()
_UNRECORDED = trace.set_span_in_context(
    NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(0))), _NOTHING
)
"""The context of callbacks that aren't recorded, so that their own spans aren't either."""


class _Unrecorded:
    """Calls a callback without a span, and its own spans aren't recorded either.

    The context stays, as the thread or task is pgnotifier's, and the next callback usually isn't
    recorded either: to attach and detach it each time would cost several times as much.
    """

    def __enter__(self) -> None:
        _attach_unrecorded()

    def __exit__(self, *_: object) -> None:
        pass


_unrecorded = _Unrecorded()


class Spans(HandingOver[Span, SpanContext]):
    """Makes the spans of a notifier: a consumer's span for each notification.

    Further subscriptions to it have spans of their own below that one.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self._tracer, self._bound, self._follows_parent = decision
        self._recent = Recent[Span, SpanContext](lambda span: span.get_span_context())

    def calling(self, delivery: Delivery, /) -> AbstractContextManager[object]:
        """Return what a callback is to be called in."""
        origin = find_origin(delivery.notification.payload)
        if not self._is_recorded(delivery, origin):
            return _unrecorded
        return self._current(delivery, origin)

    def begin_batch(self, deliveries: Sequence[Delivery], /) -> Choose | None:
        """Return what a callback of a batch is to be called in; None if none is recorded."""
        if self._bound is None or self._bound == SCALE or not self._follows_parent:
            return self.calling
        _attach_unrecorded()
        if self._bound == 0 and not any_may_carry(deliveries, TRACEPARENT):
            return None
        return self._choose

    def _choose(self, delivery: Delivery) -> AbstractContextManager[object] | None:
        # Most callbacks aren't recorded. This decides it at a fraction of the cost of `calling`.
        if may_carry(delivery.notification.payload, TRACEPARENT):
            return self.calling(delivery)
        if self._bound == 0 or not self._is_recorded(delivery, None):
            return None
        return self._current(delivery, None)

    @contextmanager
    def _current(self, delivery: Delivery, origin: SpanContext | None) -> Iterator[None]:
        span = self._begin(delivery, origin, "process")
        token = contexts.attach(trace.set_span_in_context(span, _NOTHING))
        try:
            yield
        except BaseException as exc:
            _fail(span, exc)
            raise
        finally:
            contexts.detach(token)
            span.end()

    def _receive(self, delivery: Delivery) -> tuple[Span | None, SpanContext]:
        origin = find_origin(delivery.notification.payload)
        if not self._is_recorded(delivery, origin):
            return None, _make_unrecorded(origin, delivery)
        span = self._begin(delivery, origin, "receive")
        return span, span.get_span_context()

    def _end(self, span: Span, failure: BaseException | None) -> None:
        if failure is not None:
            _fail(span, failure)
        span.end()

    def _is_recorded(self, delivery: Delivery, origin: SpanContext | None) -> bool:
        """Return whether to make a span; the sampler decides that if it isn't a usual one."""
        if self._bound is None:
            return True
        if origin is not None and self._follows_parent:
            return origin.trace_flags.sampled
        # All deliveries of a notification have the same hash: either all are recorded, or none.
        if self._bound in (0, SCALE):
            return self._bound == SCALE
        return hash_of(delivery) % SCALE < self._bound

    def _begin(self, delivery: Delivery, origin: SpanContext | None, operation: str) -> Span:
        """Start the consumer's span of a notification.

        If it has that already, start one below it for a callback. What is handed to a queue needs
        none: each message gets a span by the instrumentation of the queue.
        """

        def begin() -> Span:
            links = [Link(one) for one in find_origins(delivery)]
            return self._start(delivery, operation, SpanKind.CONSUMER, origin, links)

        span, ids = self._recent.join(delivery, begin)
        if span is not None:
            return span
        if operation == "receive":
            return NonRecordingSpan(ids)
        return self._start(delivery, operation, SpanKind.INTERNAL, ids)

    def _start(
        self,
        delivery: Delivery,
        operation: str,
        kind: SpanKind,
        parent: SpanContext | None,
        links: Sequence[Link] = (),
    ) -> Span:
        return self._tracer.start_span(
            f"{operation} {delivery.notification.channel}",
            context=_NOTHING if parent is None else _context_of(parent),
            kind=kind,
            attributes=describe(delivery, operation),
            links=links,
        )


def _attach_unrecorded() -> None:
    if contexts.get_current() is not _UNRECORDED:
        contexts.attach(_UNRECORDED)


def _context_of(ids: SpanContext) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(ids), _NOTHING)


def _make_unrecorded(origin: SpanContext | None, delivery: Delivery) -> SpanContext:
    """Return ids by which workers know that the trace is not recorded."""
    if origin is not None:
        return origin
    found = hash_of(delivery) & ((1 << 63) - 1) or 1
    return SpanContext(found << 64 | found, found, is_remote=False, trace_flags=TraceFlags(0))


def _fail(span: Span, exc: BaseException) -> None:
    if span.is_recording():
        span.record_exception(exc)
        span.set_attribute("error.type", type(exc).__qualname__)
        span.set_status(Status(StatusCode.ERROR, f"{type(exc).__name__}: {exc}"[:1000]))
