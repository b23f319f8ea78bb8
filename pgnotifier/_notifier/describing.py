"""Describing a notifier: what `status()` returns."""

from collections.abc import Iterable

from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._notifier.lifecycle import Lifecycle
from pgnotifier.status import DispatcherStatus, Status


def describe(lifecycle: Lifecycle) -> Status:
    """Return the status of a notifier: see `Notifier.status`."""
    listener, reports = lifecycle.listener, lifecycle.reports
    registry = lifecycle.registrar.registry
    deliverers = tuple(listener.deliverers.values()) if listener is not None else ()
    current = reports.states.current
    return Status(
        state=current.state,
        since=current.since,
        why=_why_paused(deliverers) if current.state == "listening" else current.why,
        connection=repr(lifecycle.parameters),
        channels=len(registry),
        subscriptions=sum(len(list(registry.bindings(name))) for name in registry),
        received=listener.router.received if listener is not None else 0,
        channel_counts=listener.router.counts() if listener is not None else {},
        errors=reports.errors.count,
        reconnects=listener.listening.reconnects if listener is not None else 0,
        latency=listener.connection.round_trips.latency if listener is not None else None,
        queue_usage=listener.queue_usage.usage if listener is not None else None,
        gaps=reports.gaps.count,
        last_gap=reports.gaps.last,
        dispatchers=tuple(map(_describe_dispatcher, deliverers)),
    )


def _describe_dispatcher(deliverer: Deliverer) -> DispatcherStatus:
    return DispatcherStatus(
        name=deliverer.name,
        waiting=deliverer.waiting,
        delivered=deliverer.delivered,
        dropped=deliverer.buffer.dropped,
        full=deliverer.buffer.full,
        retrying=deliverer.retrying,
        since=deliverer.trouble.since,
        why=deliverer.trouble.why,
        details=deliverer.dispatcher.details(),
    )


def _why_paused(deliverers: Iterable[Deliverer]) -> str | None:
    """Return why a connected listener reads nothing; None if it reads."""
    for one in deliverers:
        if one.buffer.full:
            since = one.trouble.since
            shown = f" since {since.isoformat(timespec='seconds')}" if since is not None else ""
            why = f": {one.trouble.why}" if one.trouble.why else ""
            return f"nothing is read{shown}, as the buffer of {one.name} is full{why}"
    return None
