"""Make the headers of Sentry's CeleryIntegration for stamped messages.

The integration wraps three functions of Celery and kombu. It adds the ids of the current trace, and
the time of publishing. A listener has no current transaction, so the integration sends nothing to
Sentry there.
https://docs.sentry.io/platforms/python/integrations/celery/
"""

import functools
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from pgnotifier.contrib.celery.tracing import CELERYS_OWN, INNER, Library, Trace

_INTEGRATION = "sentry_sdk.integrations.celery"
_WRAPPERS = {
    "_wrap_task_run.<locals>.apply_async": "f",
    "_patch_producer_publish.<locals>.sentry_publish": "original_publish",
}
"""The integration's wrappers, and the variable of each that holds the original function."""

TRACE, BAGGAGE, ENQUEUED = "sentry-trace", "baggage", "sentry-task-enqueued-time"
MONITOR = "sentry-monitor-start-timestamp-s"


def unwrap(function: Any) -> Any:
    """Return the function that a wrapper of Sentry's wraps; any other function as it is."""
    module = sys.modules.get(_INTEGRATION)
    while module is not None and isinstance(function, FunctionType):
        code = function.__code__
        variable = _WRAPPERS.get(code.co_qualname)
        if function.__globals__ is not vars(module) or variable not in code.co_freevars:
            break
        cells = function.__closure__ or ()
        function = cells[code.co_freevars.index(variable)].cell_contents
    return function


@dataclass(frozen=True, slots=True)
class Ids:
    """The headers of one trace, from which those of other traces are made.

    Having Sentry make the headers of each trace would take 13 µs.

    Attributes:
        trace_id: The id of the trace.
        baggage: The baggage header, which contains that id.
    """

    trace_id: str
    baggage: str

    def renew(self) -> Mapping[str, str]:
        """Return the headers of a new trace."""
        digits = secrets.token_hex(24)
        trace_id, span_id = digits[:32], digits[32:]
        headers = {TRACE: f"{trace_id}-{span_id}"}
        if self.baggage:
            headers[BAGGAGE] = self.baggage.replace(self.trace_id, trace_id)
        return headers


@dataclass(frozen=True, slots=True)
class Sentry(Library):
    """Sentry, initialised.

    Attributes:
        sdk: The package.
        ids: The headers that its own propagation context makes for a trace.
        is_external: Whether another library sends the ids.
        watches_beat: Whether its integration adds the header that monitors periodic tasks.
    """

    sdk: Any
    ids: "Ids"
    is_external: bool
    watches_beat: bool

    @property
    def names(self) -> frozenset[str]:
        """The headers that it sets."""
        return frozenset({TRACE, BAGGAGE, ENQUEUED, MONITOR})

    def describe(self, settings: Mapping[str, Any]) -> Any:
        """Return None: the headers don't depend on the message."""

    def make_headers(self, trace: Trace, described: Any, task_id: str) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the ids of the trace, and the time."""
        return {**self._find_ids(trace), **self._take_times()}

    def join(self, trace: Trace, headers: MutableMapping[str, Any]) -> None:
        """Replace the ids that the integration has set with those of the trace."""
        ids = dict(self._find_ids(trace))
        if theirs := _find_foreign(headers.get(BAGGAGE)):
            ids[BAGGAGE] = ",".join((*filter(None, [ids.get(BAGGAGE)]), theirs))
        headers.update({**self._take_times(), **headers, **ids})
        custom = {k: v for k, v in headers.items() if k not in CELERYS_OWN}
        headers[INNER] = {**(headers.get(INNER) or {}), **custom}

    @contextmanager
    def activate(self, trace: Trace) -> Iterator[None]:
        """Make this the current trace of the thread."""
        with self.sdk.isolation_scope() as scope:
            scope.generate_propagation_context(dict(self._find_ids(trace)))
            yield

    def _find_ids(self, trace: Trace) -> Mapping[str, str]:
        """Return the headers that Sentry's own propagation context makes for a new trace.

        They don't say whether the trace is sampled. Each worker decides that by its own
        `traces_sample_rate`; all workers use the same random number, which follows from the ids.
        """
        ids = trace.known.get(Sentry)
        if ids is None:
            ids = trace.known[Sentry] = {} if self.is_external else self._begin(trace)
        return ids

    def _begin(self, trace: Trace) -> Mapping[str, str]:
        """Return the ids of the notification's transaction if there is one, or new ones."""
        tracing = trace.delivery.binding.dispatcher.tracing
        found = None if tracing is None else tracing.find(trace.delivery, dict)
        return found or self.ids.renew()

    def _take_times(self) -> dict[str, Any]:
        now = time.time()
        return {ENQUEUED: now, MONITOR: f"{now:.9f}"} if self.watches_beat else {ENQUEUED: now}


def find_sentry() -> Sentry | str | None:
    """Return Sentry if it adds headers, or a text that says why it isn't supported."""
    module = sys.modules.get(_INTEGRATION)
    if module is None:
        return None
    sdk: Any = sys.modules["sentry_sdk"]
    try:
        client = sdk.get_client()
        integration = client.get_integration(module.CeleryIntegration)
        if integration is None or not integration.propagate_traces:
            return None
        find_external = getattr(sdk.scope, "has_external_propagation_context", bool)
        return Sentry(sdk, _find_ids(client), find_external(), integration.monitor_beat_tasks)
    except Exception as exc:  # noqa: BLE001 - another version may raise anything
        return f"this version of Sentry isn't supported: {type(exc).__name__}"


@functools.lru_cache(maxsize=4)
def _find_ids(client: Any) -> Ids:  # noqa: ARG001 - the ids contain its release and environment
    context = sys.modules["sentry_sdk.tracing_utils"].PropagationContext()
    headers = dict(context.iter_headers())
    if headers[TRACE] != f"{context.trace_id}-{context.span_id}" or headers.keys() > {
        TRACE,
        BAGGAGE,
    }:
        raise LookupError("there are other headers")
    return Ids(context.trace_id, headers.get(BAGGAGE, ""))


def _find_foreign(baggage: Any) -> str:
    """Return the items of a baggage header that aren't Sentry's."""
    items = baggage.split(",") if isinstance(baggage, str) else ()
    return ",".join(item for item in items if not item.strip().startswith("sentry-"))
