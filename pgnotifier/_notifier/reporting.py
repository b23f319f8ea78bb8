"""What a notifier answers when somebody asks about it, and how it carries out orders."""

import logging
import operator
import os
import platform
import socket
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import PurePath
from time import monotonic
from typing import Any, Protocol

from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._inquiry.answering import Answering
from pgnotifier._inquiry.messages import Order
from pgnotifier._inquiry.report import (
    MOST_CHANNELS,
    ChannelReport,
    DispatcherReport,
    GapSummary,
    ListenerReport,
    SubscriptionReport,
)
from pgnotifier._notifier.lifecycle import Lifecycle
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.clock import Moment
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.names import name_callable, spell
from pgnotifier._runtime.redaction import redact
from pgnotifier._runtime.version import VERSION
from pgnotifier.dispatch import Binding, Dispatcher
from pgnotifier.errors import NotifierStoppedError, PgNotifierError
from pgnotifier.notification import Gap
from pgnotifier.status import Status

logger = logging.getLogger("pgnotifier.inquiry")

REMEMBERED = 60.0
"""Seconds for which it is remembered where subscriptions go, unless one is added or removed."""
LONGEST = 200
"""The longest text of a report, in characters."""
GAP_CHANNELS = 20
"""How many channels of a gap are named."""
CONTRIB = "pgnotifier.contrib."

Places = Mapping[tuple[str, str], tuple[str, str | None]]
"""By the text of an id and the channel: the task, job or callback, and its queue."""


class Reported(Protocol):
    """What a reporter has to know of its notifier."""

    standby: str | None

    def status(self) -> Status: ...
    def mute_channels(self, channels: list[str] | None = None) -> None: ...
    def unmute_channels(self, channels: list[str] | None = None) -> None: ...
    def mute_subscriber(self, id: Hashable, channels: list[str] | None = None) -> None: ...
    def unmute_subscriber(self, id: Hashable, channels: list[str] | None = None) -> None: ...


def answer_questions(owner: Reported, lifecycle: Lifecycle, *, orders: bool) -> None:
    """Have a notifier answer questions about itself.

    Args:
        owner: The notifier.
        lifecycle: Its life.
        orders: Whether it carries out orders, too.
    """
    reporter = Reporter(owner, lifecycle)
    obey = reporter.obey if orders else None
    lifecycle.answering = Answering(lifecycle.parameters, reporter.describe, obey)


class Reporter:
    """Makes reports of one notifier; for the answering thread alone."""

    def __init__(self, owner: Reported, lifecycle: Lifecycle) -> None:
        """Take what is reported."""
        self._owner = owner
        self._lifecycle = lifecycle
        self._listed: tuple[SubscriptionReport, ...] = ()
        self._listed_of: tuple[Registry, Registry] | None = None
        self._listed_at = 0.0

    def describe(self, id: str) -> ListenerReport:
        """Return the report.

        Args:
            id: Names the listener.

        Raises:
            NotifierStoppedError: The notifier has stopped.
        """
        lifecycle, listener = self._lifecycle, self._lifecycle.listener
        if listener is None or lifecycle.answering is None:
            raise NotifierStoppedError("the notifier has stopped")
        status, session = self._owner.status(), listener.connection.session
        channels, subscriptions = self._list_channels(status), self._list_subscriptions()
        deliverers = tuple(listener.deliverers.values())
        began, now = listener.started, Moment.now()
        dispatchers = tuple(lifecycle.attachments)
        return ListenerReport(
            id=id,
            host=_clean(socket.gethostname()),
            pid=os.getpid(),
            backend_pid=None if session is None else session.server_pid,
            version=VERSION,
            python=platform.python_version(),
            kind=next(filter(None, map(_kind_of, dispatchers)), "callbacks"),
            app=next(filter(None, map(_app_of, dispatchers)), None),
            command=_clean(PurePath(sys.argv[0]).name if sys.argv else ""),
            standby=self._owner.standby,
            started_at=began.wall,
            uptime=now.steady - began.steady,
            measured_at=now.wall,
            state=status.state,
            since=status.since,
            why=_clean_or_none(status.why),
            connection=_clean(status.connection),
            received=status.received,
            errors=status.errors,
            dropped=sum(one.dropped for one in status.dispatchers),
            reconnects=status.reconnects,
            latency=status.latency,
            queue_usage=status.queue_usage,
            gaps=status.gaps,
            last_gaps=tuple(map(_summarize, lifecycle.reports.gaps.latest())),
            channel_count=status.channels,
            channels=channels,
            subscription_count=status.subscriptions,
            subscriptions=subscriptions,
            dispatchers=tuple(map(self._describe_dispatcher, deliverers)),
            durable=status.durable,
            log=status.log,
            takes_orders=lifecycle.answering.takes_orders,
        )

    def _registries(self) -> tuple[Registry, Registry]:
        return self._lifecycle.registrar.registry, self._lifecycle.durable_registrar.registry

    def _list_channels(self, status: Status) -> tuple[ChannelReport, ...]:
        volatile, durable = self._registries()
        return tuple(
            ChannelReport(
                name=name,
                received=status.channel_counts.get(name, 0),
                muted=volatile.is_muted(name) or durable.is_muted(name),
                durable=name in durable,
            )
            for name in sorted({*volatile, *durable})[:MOST_CHANNELS]
        )

    def _list_subscriptions(self) -> tuple[SubscriptionReport, ...]:
        """Return the subscriptions. Asking a thousand tasks for their queues takes a while."""
        known = self._registries()
        is_known = self._listed_of is not None and all(map(operator.is_, known, self._listed_of))
        if not is_known or monotonic() > self._listed_at + REMEMBERED:
            self._listed = tuple(self._describe_all(known))
            self._listed_of, self._listed_at = known, monotonic()
        return self._listed

    def _describe_all(self, registries: Iterable[Registry]) -> Iterator[SubscriptionReport]:
        found = [one for registry in registries for one in _bindings(registry)]
        places = {one: _find_places(one) for one in {each.dispatcher for each in found}}
        found.sort(key=lambda one: one.subscription.channel)
        for binding in found[:MOST_CHANNELS]:
            one = binding.subscription
            target, queue = _find_place(binding, places[one.dispatcher])
            yield SubscriptionReport(
                id=show_id(one.id),
                channel=one.channel,
                target=_clean(target),
                queue=_clean_or_none(queue),
                dispatcher=type(one.dispatcher).__name__,
                muted=one.muted,
                durable=one.durability is not None,
            )

    def _describe_dispatcher(self, deliverer: Deliverer) -> DispatcherReport:
        return DispatcherReport(
            name=deliverer.name,
            waiting=deliverer.waiting,
            size=self._lifecycle.settings.buffer_size,
            delivered=deliverer.delivered,
            dropped=deliverer.buffer.dropped,
            full=deliverer.buffer.full,
            retrying=deliverer.retrying,
            since=deliverer.trouble.since,
            why=_clean_or_none(deliverer.trouble.why),
            delay=deliverer.delays.summarize(),
        )

    # --- orders ---

    def obey(self, order: Order, role: str) -> str | None:
        """Mute or unmute a channel or a subscription; return why that isn't possible, or None.

        Args:
            order: What to do.
            role: Who has asked for it, for the log.
        """
        registries = self._registries()
        if not any(order.channel in one for one in registries):
            return f"it has no channel {order.channel!r}"
        notifier, names = self._owner, [order.channel]
        mutes = order.verb == "mute"
        try:
            if order.subscription is None:
                (notifier.mute_channels if mutes else notifier.unmute_channels)(names)
            else:
                ids = {
                    one.id
                    for registry in registries
                    for one in registry.bindings(order.channel)
                    if show_id(one.id) == order.subscription
                }
                if len(ids) != 1:
                    many = "several subscriptions" if ids else "no subscription"
                    return f"channel {order.channel!r} has {many} called {order.subscription!r}"
                (one,) = ids
                (notifier.mute_subscriber if mutes else notifier.unmute_subscriber)(one, names)
        except PgNotifierError as exc:
            return str(exc)
        logger.warning(
            "%s %s on channel %r, as role %r has asked for",
            f"{order.verb}d",
            "everything" if order.subscription is None else f"subscription {order.subscription!r}",
            order.channel,
            role,
            extra=about(
                f"{order.verb}d",
                channel=order.channel,
                subscription=order.subscription,
                role=role,
            ),
        )
        return None


def show_id(id: Hashable) -> str:
    """Return the text of a subscription's id, as reports show it."""
    return _clean(spell(id))


def _bindings(registry: Registry) -> list[Binding]:
    return [binding for name in registry for binding in registry.bindings(name)]


def _find_places(dispatcher: Dispatcher) -> Places:
    """Return where a dispatcher's subscriptions go, by what it says about itself."""
    try:
        rows = dispatcher.details().get("subscriptions", ())
        return {
            (str(row["id"]), str(row["channel"])): (
                str(row.get("task") or row.get("job")),
                row.get("queue"),
            )
            for row in rows
        }
    except Exception as exc:  # noqa: BLE001 - it may be the user's
        logger.debug("%r can't be described: %s", dispatcher, exc, extra=about("undescribed"))
        return {}


def _find_place(binding: Binding, places: Places) -> tuple[str, str | None]:
    channel, spellings = binding.subscription.channel, (spell, ascii)
    for one in spellings:
        if (found := places.get((one(binding.id), channel))) is not None:
            return found
    return name_callable(binding.subscription.fn), None


def _kind_of(dispatcher: Dispatcher) -> str | None:
    module = type(dispatcher).__module__
    return module.removeprefix(CONTRIB).split(".")[0] if module.startswith(CONTRIB) else None


def _app_of(dispatcher: Dispatcher) -> str | None:
    """Return the name of the dispatcher's Celery app, if it has one."""
    main: Any = getattr(getattr(dispatcher, "app", None), "main", None)
    return _clean(main) if isinstance(main, str) else None


def _summarize(gap: Gap) -> GapSummary:
    return GapSummary(
        since=gap.since,
        until=gap.until,
        reason=_clean(gap.reason),
        channels=tuple(sorted(gap.channels)[:GAP_CHANNELS]),
        channel_count=len(gap.channels),
    )


def _clean(text: str) -> str:
    """Return a text without passwords and lone surrogates, of a limited length."""
    return redact(text[: 4 * LONGEST]).encode("utf-8", "replace").decode()[:LONGEST]


def _clean_or_none(text: str | None) -> str | None:
    return None if text is None else _clean(str(text))
