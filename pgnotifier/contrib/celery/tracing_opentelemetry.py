"""Make the spans and headers of OpenTelemetry's CeleryInstrumentor for stamped messages.

The instrumentor receives Celery's signals of publishing. For each message it makes a span, and adds
a header with the span's ids.
https://opentelemetry-python-contrib.readthedocs.io/en/latest/instrumentation/celery/celery.html
"""

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import signals

from pgnotifier.contrib.celery.tracing import Library, Trace

_INSTRUMENTATION = "opentelemetry.instrumentation.celery"
_before: Any = signals.before_task_publish


def is_known(receiver: Any) -> bool:
    """Return whether a receiver of a signal is one of the instrumentation's own."""
    module = sys.modules.get(_INSTRUMENTATION)
    instrumentor = getattr(module, "CeleryInstrumentor", None)
    names = ("_trace_before_publish", "_trace_after_publish")
    known = [getattr(instrumentor, name, None) for name in names]
    return instrumentor is not None and getattr(receiver, "__func__", receiver) in known


@dataclass(frozen=True, slots=True)
class Described:
    """What is the same for the spans of all messages like one.

    Attributes:
        name: The name of the spans.
        kind: The kind of the spans.
        attributes: All attributes except for the task's id.
        id_attribute: The name of the attribute that holds the task's id.
        nothing: An empty context, for the first span of a trace.
        is_plain: Whether the propagators add exactly what `_show` returns.
        known_span: The SDK's class of spans, if its spans keep these attributes as they are.
    """

    name: str
    kind: Any
    attributes: Mapping[str, Any]
    id_attribute: str
    nothing: Any
    is_plain: bool
    known_span: Any

    def set_attributes(self, span: Any, task_id: str) -> None:
        """Set the attributes of a span that is recorded, and that no other thread knows yet."""
        attributes = {**self.attributes, self.id_attribute: task_id}
        kept = span._attributes if type(span) is self.known_span else None  # noqa: SLF001
        if (
            kept is not None
            and not kept
            and kept.max_value_len is None
            and (kept.maxlen is None or kept.maxlen >= len(attributes))
        ):
            # The SDK has already kept such attributes as they are. Having it check them for each
            # span would take a third of the time that a span takes.
            kept._dict.update(attributes)  # noqa: SLF001
        else:
            span.set_attributes(attributes)


@dataclass(frozen=True, slots=True)
class OpenTelemetry(Library):
    """The instrumentation, with its tracer.

    Attributes:
        tracer: Makes spans. Its provider's sampler decides whether they are recorded.
    """

    tracer: Any

    @property
    def names(self) -> frozenset[str]:
        """The headers that the propagators set: `traceparent` and so on."""
        return frozenset(_api("propagate").get_global_textmap().fields)

    def describe(self, settings: Mapping[str, Any]) -> "Described":
        """Return the name and the attributes of the spans, as the instrumentation sets them."""
        name = settings["headers"]["task"]
        span = _Attributes()
        signalled = {key: settings.get(key) for key in ("exchange", "routing_key", "declare")}
        _api("instrumentation.celery").utils.set_attributes_from_context(span, signalled)
        found = {
            **span.attributes,
            "celery.action": "apply_async",
            "celery.task_name": name,
        }
        return Described(
            f"apply_async/{name}",
            _api("trace").SpanKind.PRODUCER,
            found,
            _api("instrumentation.celery").MESSAGING_MESSAGE_ID,
            _api("context").Context(),
            _is_plain(_api("propagate").get_global_textmap()),
            _find_known_span(found),
        )

    def make_headers(self, trace: Trace, described: Any, task_id: str) -> Mapping[str, Any]:
        """Make a span, and return its headers.

        The notification's own span is the parent, if its notifier is instrumented. Otherwise the
        first span is the root of the trace, and the parent of the others.
        """
        root = _find_root(trace)
        parent = described.nothing if root is None else _find_parent(trace)
        # Like the instrumentation, set the attributes once the sampler has decided.
        span = self.tracer.start_span(described.name, context=parent, kind=described.kind)
        if span.is_recording():
            described.set_attributes(span, task_id)
        ids = span.get_span_context()
        headers = _show(ids) if described.is_plain else _inject(span, parent)
        span.end()
        # Keep only its ids: keeping all spans of a batch alive would cost as much as making them.
        if root is None:
            trace.known[OpenTelemetry] = ids
        return headers

    def join(self, trace: Trace, headers: MutableMapping[str, Any]) -> None:
        """Make the span of the instrumentation the root, if the trace has none yet."""
        if OpenTelemetry not in trace.known:
            context = _api("propagate").extract(headers, _api("context").Context())
            ids = _api("trace").get_current_span(context).get_span_context()
            if ids.is_valid:
                trace.known[OpenTelemetry] = ids

    @contextmanager
    def activate(self, trace: Trace) -> Iterator[None]:
        """Make the instrumentation's spans in the `with` block part of this trace alone."""
        # The instrumentation leaves a context attached for tasks that it doesn't know. Detaching
        # this one restores the previous context.
        token = _api("context").attach(_find_parent(trace))
        try:
            yield
        finally:
            _api("context").detach(token)


def find_opentelemetry() -> OpenTelemetry | str | None:
    """Return the instrumentation if it is on, or a text that says why it isn't supported."""
    found = [receiver for _, receiver in _before.receivers or () if is_known(receiver)]
    if not found:
        return None
    try:
        (receiver,) = found
        return OpenTelemetry(receiver.__self__._tracer)  # noqa: SLF001 - there is no public access
    except Exception as exc:  # noqa: BLE001 - another version may raise anything
        return f"this version of OpenTelemetry isn't supported: {type(exc).__name__}"


class _Attributes:
    """Stands in for a span, and records its attributes."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def is_recording(self) -> bool:
        """Return True, so that attributes are set."""
        return True

    def set_attribute(self, name: str, value: Any) -> None:
        """Record an attribute."""
        self.attributes[name] = value


def _find_known_span(attributes: Mapping[str, Any]) -> Any:
    """Return the SDK's class of spans, if its spans keep these attributes as they are."""
    sdk, api = (sys.modules.get(f"opentelemetry.{name}") for name in ("sdk.trace", "attributes"))
    known_span = getattr(sdk, "_Span", None)
    keeper = getattr(api, "BoundedAttributes", None)
    if known_span is None or keeper is None:  # another SDK
        return None
    kept = getattr(keeper(attributes=attributes), "_dict", None)
    return known_span if kept == attributes else None


def _is_plain(propagator: Any) -> bool:
    """Return whether a propagator is the default one: W3C's trace context, and baggage.

    The contexts here have no baggage.
    """
    known = (
        _api("trace.propagation.tracecontext").TraceContextTextMapPropagator,
        _api("baggage.propagation").W3CBaggagePropagator,
    )
    parts = getattr(propagator, "_propagators", (propagator,))
    if len(parts) > 1 and type(propagator) is not _api("propagators.composite").CompositePropagator:
        return False
    return {known[0]} <= {*map(type, parts)} <= {*known}


def _show(ids: Any) -> dict[str, Any]:
    """Return the headers of W3C's trace context for the ids of a span.

    https://www.w3.org/TR/trace-context/#traceparent-header
    """
    if not ids.is_valid:  # the tracer is switched off
        return {}
    headers = {"traceparent": f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"}
    if ids.trace_state:
        headers["tracestate"] = ids.trace_state.to_header()
    return headers


def _inject(span: Any, parent: Any) -> dict[str, Any]:
    """Return the headers that the propagators add for a span."""
    headers: dict[str, Any] = {}
    _api("propagate").inject(headers, _api("trace").set_span_in_context(span, parent))
    return headers


def _find_root(trace: Trace) -> Any:
    """Return the ids of a trace's root: the span of the notification if there is one, or None."""
    ids = trace.known.get(OpenTelemetry)
    tracing = trace.delivery.binding.dispatcher.tracing
    if ids is None and tracing is not None:
        ids = tracing.find(trace.delivery, _api("trace").SpanContext)
        if ids is not None:
            trace.known[OpenTelemetry] = ids
    return ids


def _find_parent(trace: Trace) -> Any:
    """Return the context of a trace's root; an empty one if there isn't a root yet."""
    nothing = _api("context").Context()
    ids = _find_root(trace)
    if ids is None:
        return nothing
    api = _api("trace")
    return api.set_span_in_context(api.NonRecordingSpan(ids), nothing)


def _api(name: str) -> Any:
    """Return a module of OpenTelemetry. It is loaded if the instrumentation is."""
    return sys.modules[f"opentelemetry.{name}"]
