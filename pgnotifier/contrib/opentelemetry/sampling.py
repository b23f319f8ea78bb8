"""Decide whether a trace is recorded before a span is made, where the sampler allows that.

A span that isn't recorded costs the SDK several times what a delivery does. So the usual samplers
are recognised by their description, and their decision is made here. Spans that are to be recorded
are made by a tracer of the same provider that records all of them.
"""

import re
from typing import Any, NamedTuple

from opentelemetry import trace

_ROOT = re.compile(
    r"(?P<parent>ParentBased\{root:)?"
    r"(?P<sampler>AlwaysOnSampler|AlwaysOffSampler|TraceIdRatioBased\{(?P<rate>[0-9.e-]+)\})"
    r"(?(parent),remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
    r"localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler\})"
)
SCALE = 1 << 32
"""The number of hashes that a rate divides."""


class Decision(NamedTuple):
    """Who decides, and what makes the spans.

    Attributes:
        tracer: Makes spans.
        bound: A trace begins if a hash, modulo `SCALE`, is below it. None: the sampler decides.
        follows_parent: Whether a trace that isn't recorded elsewhere isn't recorded here either.
    """

    tracer: trace.Tracer
    bound: int | None = None
    follows_parent: bool = False


def decide(provider: trace.TracerProvider, name: str, version: str) -> Decision:
    """Return how to decide for the tracers of a provider."""
    usual = Decision(provider.get_tracer(name, version))
    try:
        return _decide(provider, usual.tracer, name, version) or usual
    except Exception:  # noqa: BLE001 - another version of the SDK may raise anything
        return usual


def _decide(provider: Any, usual: trace.Tracer, name: str, version: str) -> Decision | None:
    from opentelemetry.sdk.trace import TracerProvider  # which is there, if the provider is its
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

    if type(provider) is not TracerProvider or provider._disabled:  # noqa: SLF001
        return None
    found = _ROOT.fullmatch(provider.sampler.get_description())
    if found is None:
        return None
    rate = {"AlwaysOnSampler": 1.0, "AlwaysOffSampler": 0.0}.get(found["sampler"])
    rate = float(found["rate"]) if rate is None else rate
    if rate == 1.0:
        return Decision(usual, SCALE, found["parent"] is not None)
    if not found["parent"]:  # the sampler decides for each span by the id of its trace
        return None if rate else Decision(usual, 0, follows_parent=True)
    recording = TracerProvider(
        sampler=ParentBased(ALWAYS_ON),
        resource=provider.resource,
        shutdown_on_exit=False,
        active_span_processor=provider._active_span_processor,  # noqa: SLF001
        id_generator=provider.id_generator,
        span_limits=provider._span_limits,  # noqa: SLF001
    )
    return Decision(recording.get_tracer(name, version), round(rate * SCALE), follows_parent=True)
