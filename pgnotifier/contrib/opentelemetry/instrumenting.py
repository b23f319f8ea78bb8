"""Instrument a notifier: find the providers, and have spans made."""

from typing import TypeVar

from opentelemetry import trace

import pgnotifier
from pgnotifier._runtime.tracing import Tracing
from pgnotifier.contrib.opentelemetry.sampling import decide
from pgnotifier.contrib.opentelemetry.spans import Spans
from pgnotifier.notifier import Notifier

SCOPE = "pgnotifier"
"""The name of the instrumentation."""

N = TypeVar("N", bound=Notifier)


def instrument(notifier: N, tracer_provider: trace.TracerProvider | None = None) -> N:
    """Have a notifier make spans from its next start on; return it.

    If no provider is configured when it starts, it makes none, and is as fast as before.

    Args:
        notifier: The notifier, which isn't running yet.
        tracer_provider: Makes the tracer. Default: the global one at the start.
    """
    made: dict[trace.TracerProvider, Spans] = {}

    def find_tracing() -> Tracing | None:
        provider = tracer_provider or trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return None
        if provider not in made:  # all dispatchers of a notifier share the traces
            made[provider] = Spans(decide(provider, SCOPE, pgnotifier.__version__))
        return made[provider]

    notifier.trace_with("opentelemetry", find_tracing)
    return notifier
