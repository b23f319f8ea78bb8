"""The five views: which columns each has, and the rows that it shows of a board."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pgnotifier._inquiry.merging import merge_channels
from pgnotifier._inquiry.report import DispatcherReport, ListenerReport, SubscriptionReport
from pgnotifier.cli.top.board import Board, name_listener
from pgnotifier.cli.top.rows import Column, Row, make_row, number
from pgnotifier.cli.top.words import (
    age_of,
    draw_sparkline,
    show_age,
    show_delay,
    show_moment,
    show_number,
    show_rate,
)
from pgnotifier.status import DurableStatus

TREND = 10
"""The width of a sparkline in a table."""
QUIET = "quiet"
BAD = "bad"


@dataclass(frozen=True, slots=True)
class View:
    """A view.

    Attributes:
        name: Its name.
        noun: What a row is.
        columns: Its columns; the first one gets what is left of the width.
        sorted_by: The column that it is sorted by at first.
        list_rows: Returns the rows.
        empty: What is shown if there are none.
    """

    name: str
    noun: str
    columns: Sequence[Column]
    sorted_by: int
    list_rows: Callable[[Board], Iterator[Row]]
    empty: str


def _list_listeners(board: Board) -> Iterator[Row]:
    for one in board.reports:
        waiting = sum(each.waiting for each in one.dispatchers)
        delays = [each.delay for each in one.dispatchers if each.delay]
        worst = max(delays, key=lambda each: each.p95, default=None)
        trip = one.latency.last if one.latency else None
        is_well = one.state in ("listening", "standby") and not one.why
        yield make_row(
            (one.id,),
            name_listener(one),
            one.state,
            (age_of(one.since), -one.since.timestamp()),
            (show_rate(one.rate), one.rate or 0.0),
            (show_number(waiting), waiting),
            (show_delay(worst.p95 if worst else None), worst.p95 if worst else 0.0),
            (show_number(one.gaps), one.gaps),
            (show_number(one.errors), one.errors),
            (show_delay(trip), trip or 0.0),
            f"{one.kind} {one.app}" if one.app else one.kind,
            one.standby or "",
            one.version,
            detail=_describe_listener(one),
            tone=BAD if not is_well else QUIET if one.state == "standby" else "",
        )
    for silent in () if board.survey is None else board.survey.silent:
        name = f"session {silent.backend_pid}"
        yield make_row(
            ("silent", silent.backend_pid),
            f"{name} {silent.address or ''}".rstrip(),
            "silent",
            (age_of(silent.since), 0.0),
            *[("", 0.0)] * 6,
            silent.application or "",
            "",
            "",
            detail=f"{name} of role {silent.role or '?'} belongs to a listener that doesn't "
            "answer: it hangs, is slow, or can't connect to answer",
            tone=BAD,
        )


def _describe_listener(one: ListenerReport) -> str:
    parts = [
        f"{one.state} since {show_moment(one.since)}",
        f"pgnotifier {one.version}, Python {one.python}, {one.command}".rstrip(", "),
        f"{one.channel_count:,} channels, {one.subscription_count:,} subscriptions",
        "takes orders" if one.takes_orders else "takes no orders",
        one.connection,
    ]
    if one.why:
        parts.insert(0, f"! {one.why}")
    if one.last_gaps:
        gap = one.last_gaps[0]
        seconds = show_delay((gap.until - gap.since).total_seconds())
        parts.append(f"last gap {age_of(gap.until)} ago, {seconds}: {gap.reason}")
    return " · ".join(parts)


def _list_channels(board: Board) -> Iterator[Row]:
    """Yield the channels of all listeners together."""
    for one in merge_channels(board.reports):
        state = "durable" if one.durable else ""
        if one.muted:
            state = "muted" if one.muted == one.listeners else "partly muted"
        trend = board.trends.get(one.name, ())
        listed = ", ".join(sorted(one.subscriptions)[:20])
        yield make_row(
            (one.name,),
            one.name,
            (show_rate(one.rate), one.rate),
            (draw_sparkline(trend, TREND), sum([*trend][-TREND:])),
            (show_number(one.received), one.received),
            (show_number(len(one.subscriptions)), len(one.subscriptions)),
            state,
            detail=f"{one.name} · {listed or 'no subscription'}",
            tone=QUIET if one.muted else "",
            channel=one.name,
        )


def _list_subscriptions(board: Board) -> Iterator[Row]:
    """Yield the subscriptions of all listeners, without duplicates."""
    known = dict[tuple[str, str, str], SubscriptionReport]()
    muted, listeners = dict[tuple[str, str, str], int](), dict[tuple[str, str, str], int]()
    for one in board.reports:
        for sub in one.subscriptions:
            key = sub.channel, sub.id, sub.target
            known[key] = sub
            muted[key] = muted.get(key, 0) + sub.muted
            listeners[key] = listeners.get(key, 0) + 1
    for key, sub in known.items():
        state = "durable" if sub.durable else ""
        if muted[key]:
            state = "muted" if muted[key] == listeners[key] else "partly muted"
        yield make_row(
            key,
            sub.channel,
            sub.id,
            sub.target,
            sub.queue or "",
            state,
            sub.dispatcher,
            detail=f"{sub.id} · {sub.channel} → {sub.target}"
            + (f" · queue {sub.queue}" if sub.queue else ""),
            tone=QUIET if muted[key] else "",
            channel=sub.channel,
            subscription=sub.id,
        )


def _list_queues(board: Board) -> Iterator[Row]:
    for one in board.reports:
        for number_, each in enumerate(one.dispatchers):
            yield _make_buffer(one, number_, each)
    for queue in board.queues:
        length = "" if queue.length is None else show_number(queue.length)
        state = "unknown" if queue.length is None else ""
        yield make_row(
            ("queue", queue.kind, queue.name),
            queue.name,
            f"{queue.kind} queue",
            (length, queue.length or 0),
            *[("", 0.0)] * 5,
            state,
            ("", 0),
            detail=queue.error or f"queue {queue.name} in the broker",
            tone=BAD if queue.error else "",
        )


def _make_buffer(one: ListenerReport, place: int, each: DispatcherReport) -> Row:
    delay = each.delay
    state = "retrying" if each.retrying else "full" if each.full else ""
    name = f"{each.name} of {name_listener(one)}"
    size = show_number(each.size)
    return make_row(
        ("buffer", one.id, place),
        name,
        "buffer",
        (show_number(each.waiting), each.waiting),
        (show_rate(each.rate), each.rate or 0.0),
        (show_delay(delay.median if delay else None), delay.median if delay else 0.0),
        (show_delay(delay.p95 if delay else None), delay.p95 if delay else 0.0),
        (show_delay(delay.p99 if delay else None), delay.p99 if delay else 0.0),
        (show_number(each.dropped), each.dropped),
        state,
        (show_number(each.delivered), each.delivered),
        detail=f"{name} · {each.waiting:,} of {size} wait · {each.delivered:,} delivered"
        + (f" · {state} for {age_of(each.since)}" if state else "")
        + (f": {each.why}" if each.why else ""),
        tone=BAD if state else "",
    )


def _list_durable(board: Board) -> Iterator[Row]:
    """Yield the durable subscriptions, without duplicates if several listeners read them."""
    found = dict[tuple[str, str], list[DurableStatus]]()
    for one in board.reports:
        for each in one.durable:
            found.setdefault((each.channel, each.id), []).append(each)
    for key, parts in found.items():
        worst = max(parts, key=lambda one: one.lag)
        rate = sum(one.rate or 0.0 for one in parts)
        failed, dead = max(one.failed for one in parts), max(one.dead for one in parts)
        why = next((one.why for one in parts if one.why), None)
        held = next((one.held_since for one in parts if one.held_since), None)
        state = "not read" if why else "held up" if held else "retrying" if failed else ""
        yield make_row(
            key,
            worst.id,
            worst.channel,
            (show_number(worst.lag), worst.lag),
            (show_age(worst.lag_seconds), worst.lag_seconds),
            (show_rate(rate), rate),
            (show_number(failed), failed),
            (show_number(dead), dead),
            state,
            detail=f"{worst.id} · {worst.channel} · entry {worst.last_id or 'none'}"
            + (f" · {why}" if why else "")
            + (f" · held up for {age_of(held)} by an entry that fails" if held else ""),
            tone=BAD if why or held or dead else "",
            channel=worst.channel,
            subscription=worst.id,
        )


VIEWS: Sequence[View] = (
    View(
        "Listeners",
        "listener",
        (
            Column("LISTENER", 0), Column("STATE", 12), Column("SINCE", 6, right=True),
            number("RATE", 9), number("BUFFER", 7), number("P95", 6), number("GAPS", 4),
            number("ERRORS", 6), number("TRIP", 6), Column("FOR", 14), Column("STANDBY", 14),
            Column("VERSION", 8),
        ),
        1,
        _list_listeners,
        "nobody listens",
    ),
    View(
        "Channels",
        "channel",
        (
            Column("CHANNEL", 0), number("RATE", 9), number("TREND", TREND),
            number("RECEIVED", 9), number("SUBS", 5), Column("STATE", 12),
        ),
        1,
        _list_channels,
        "no channel",
    ),
    View(
        "Subscriptions",
        "subscription",
        (
            Column("CHANNEL", 0), Column("SUBSCRIPTION", 16), Column("GOES TO", 24),
            Column("QUEUE", 9), Column("STATE", 12), Column("DISPATCHER", 20),
        ),
        0,
        _list_subscriptions,
        "no subscription",
    ),
    View(
        "Queues",
        "buffer or queue",
        (
            Column("BUFFER OR QUEUE", 0), Column("KIND", 12), number("WAITING", 8),
            number("RATE", 9), number("P50", 6), number("P95", 6), number("P99", 6),
            number("DROPPED", 7), Column("STATE", 8), number("DELIVERED", 9),
        ),
        2,
        _list_queues,
        "no buffer, and no queue that is known",
    ),
    View(
        "Durable",
        "durable subscription",
        (
            Column("SUBSCRIPTION", 0), Column("CHANNEL", 14), number("LAG", 8),
            number("BEHIND", 6), number("RATE", 8), number("FAILED", 6), number("DEAD", 5),
            Column("STATE", 8),
        ),
        2,
        _list_durable,
        "no durable subscription",
    ),
)  # fmt: skip
