"""Draw a picture of a database's listeners as text, for `pgnotifier status`."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import click

from pgnotifier._inquiry.merging import merge_channels
from pgnotifier._inquiry.report import ListenerReport, SubscriptionReport
from pgnotifier._runtime.log_records import count, duration
from pgnotifier.cli.outbox import OUTBOX_HEADINGS, outbox_rows
from pgnotifier.cli.positions import POSITION_HEADINGS, describe_log, position_row
from pgnotifier.cli.printable import printable
from pgnotifier.cli.status.picture import LogPicture, Picture, name_listener
from pgnotifier.cli.tables import format_table

LONGEST = 48
"""The longest text in a table, in characters."""
GAPS = 5
"""How many gaps are shown."""

_LISTENERS = {
    "state": "STATE",
    "host": "HOST",
    "pid": "PID",
    "kind": "FOR",
    "standby": "STANDBY",
    "since": "SINCE",
    "version": "VERSION",
    "rate": "RATE",
    "received": "RECEIVED",
    "errors": "ERRORS",
    "gaps": "GAPS",
    "trip": "ROUND TRIP",
    "session": "SESSION",
}
_DISPATCHERS = {
    "host": "HOST",
    "pid": "PID",
    "name": "DISPATCHER",
    "waiting": "WAITING",
    "rate": "RATE",
    "delivered": "DELIVERED",
    "dropped": "DROPPED",
    "median": "MEDIAN",
    "p99": "99 %",
    "state": "STATE",
}
_CHANNELS = {
    "name": "CHANNEL",
    "rate": "RATE",
    "received": "RECEIVED",
    "subscriptions": "SUBSCRIPTIONS",
    "state": "STATE",
}
_SUBSCRIPTIONS = {
    "channel": "CHANNEL",
    "id": "SUBSCRIPTION",
    "target": "GOES TO",
    "queue": "QUEUE",
    "dispatcher": "DISPATCHER",
    "state": "STATE",
}

Row = Mapping[str, str | None]


def draw(picture: Picture, limit: int | None) -> str:
    """Return the picture as text.

    Args:
        picture: The picture.
        limit: How many channels and subscriptions to show; None for all.
    """
    return "\n\n".join(_sections(picture, limit))


def _sections(picture: Picture, limit: int | None) -> Iterator[str]:
    reports = picture.survey.reports
    if reports:
        yield _table(_LISTENERS, map(_listener, reports))
        dispatchers = [*_dispatchers(reports)]
        if dispatchers:
            yield _table(_DISPATCHERS, dispatchers)
        yield _limited(_CHANNELS, [*_channels(reports)], limit, "channel")
        yield _limited(_SUBSCRIPTIONS, [*_subscriptions(reports)], limit, "subscription")
    gaps = [*_gaps(reports)]
    if gaps:
        yield "\n".join(gaps)
    if picture.log is not None:
        yield from _log(picture.log)
    lines = [*picture.problems, *([picture.unread] if picture.unread else [])]
    if lines:
        yield "\n".join(click.style(f"! {printable(line)}", fg="red") for line in lines)
    elif reports:
        yield click.style("all is well", fg="green")


def _listener(one: ListenerReport) -> Row:
    return {
        "state": one.state,
        "host": one.host,
        "pid": str(one.pid),
        "kind": f"{one.kind} {one.app}" if one.app else one.kind,
        "standby": one.standby,
        "since": f"{_time(one.since)} ({_age(one.since)})",
        "version": f"{one.version}, Python {one.python}",
        "rate": _rate(one.rate),
        "received": f"{one.received:,}",
        "errors": f"{one.errors:,}",
        "gaps": f"{one.gaps:,}",
        "trip": _seconds(one.latency.last) if one.latency is not None else None,
        "session": None if one.backend_pid is None else f"pid {one.backend_pid}",
    }


def _dispatchers(reports: Sequence[ListenerReport]) -> Iterator[Row]:
    for one in reports:
        for each in one.dispatchers:
            state = "full" if each.full else "retrying" if each.retrying else None
            yield {
                "host": one.host,
                "pid": str(one.pid),
                "name": each.name,
                "waiting": f"{each.waiting:,} of {each.size:,}",
                "rate": _rate(each.rate),
                "delivered": f"{each.delivered:,}",
                "dropped": f"{each.dropped:,}",
                "median": _seconds(each.delay.median) if each.delay is not None else None,
                "p99": _seconds(each.delay.p99) if each.delay is not None else None,
                "state": state,
            }


def _channels(reports: Sequence[ListenerReport]) -> Iterator[Row]:
    """Yield the channels of all listeners together, the busiest first."""
    found = merge_channels(reports)
    for one in sorted(found, key=lambda one: (-one.rate, -one.received, one.name)):
        some = "" if one.muted == one.listeners else f" in {one.muted} listeners"
        yield {
            "name": one.name,
            "rate": _rate(one.rate),
            "received": f"{one.received:,}",
            "subscriptions": f"{len(one.subscriptions):,}",
            "state": f"muted{some}" if one.muted else None,
        }


def _subscriptions(reports: Sequence[ListenerReport]) -> Iterator[Row]:
    """Yield the subscriptions of all listeners, without duplicates."""
    known = dict[SubscriptionReport, None]()
    for one in reports:
        known.update(dict.fromkeys(one.subscriptions))
    for sub in sorted(known, key=lambda sub: (sub.channel, sub.id)):
        state = [name for name, on in (("durable", sub.durable), ("muted", sub.muted)) if on]
        yield {
            "channel": sub.channel,
            "id": sub.id,
            "target": sub.target,
            "queue": sub.queue,
            "dispatcher": sub.dispatcher,
            "state": ", ".join(state) or None,
        }


def _gaps(reports: Sequence[ListenerReport]) -> Iterator[str]:
    found = [(gap, one) for one in reports for gap in one.last_gaps]
    found.sort(key=lambda pair: pair[0].until, reverse=True)
    for gap, one in found[:GAPS]:
        yield printable(
            f"gap of {name_listener(one)}: {_time(gap.since)} to {_time(gap.until)}, "
            f"{count(gap.channel_count, 'channel')}: {gap.reason}"
        )


def _log(log: LogPicture) -> Iterator[str]:
    if log.positions:
        yield _table(POSITION_HEADINGS, map(position_row, log.positions))
    if log.outboxes:
        yield _table(OUTBOX_HEADINGS, [row for one in log.outboxes for row in outbox_rows(one)])
    yield "\n".join(map(printable, describe_log(log.state)))


def _limited(headings: Mapping[str, str], rows: list[Row], limit: int | None, noun: str) -> str:
    if not rows:
        return f"no {noun}"
    shown = rows if limit is None else rows[:limit]
    left = len(rows) - len(shown)
    more = f"\n… and {count(left, f'more {noun}')}: --all, --channel NAME" if left else ""
    return _table(headings, shown) + more


def _table(headings: Mapping[str, str], rows: "Iterator[Row] | Sequence[Row] | map[Row]") -> str:
    cleaned = (
        {key: value and printable(value, LONGEST) for key, value in row.items()} for row in rows
    )
    return format_table(headings, cleaned)


def _rate(rate: float | None) -> str | None:
    return None if rate is None else f"{rate:,.1f}/s"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else duration(seconds)


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _age(at: datetime) -> str:
    return duration(max(0.0, (datetime.now(UTC) - at).total_seconds()))
