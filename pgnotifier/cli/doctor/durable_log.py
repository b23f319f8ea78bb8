"""Check the durable log: its version, the role's rights, its subscriptions, its space, outboxes."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from pgnotifier._log import installing
from pgnotifier._log.installing import Part
from pgnotifier._log.outbox_queries import PREFIX, outboxes
from pgnotifier._log.outbox_values import OutboxState
from pgnotifier._log.overview import log_state, positions
from pgnotifier._runtime.log_records import count, duration, percent
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Findings, failed, ok, warning
from pgnotifier.cli.doctor.link import Link
from pgnotifier.cli.units import format_size
from pgnotifier.errors import LogNotInstalledError, LogRefusedError, in_one_line
from pgnotifier.status import LogState, Position

_NEARLY_FULL = 0.8
_UNREAD = 300.0
"""Seconds after which it is a warning that nobody reads a subscription."""
_LATE = 60.0
"""The same for what waits in an outbox."""
_SHARE = 0.25
"""The share of the log from which on it is a warning that something holds it back."""

IS_THERE = "SELECT pg_catalog.to_regnamespace('pgnotifier') IS NOT NULL"
LACKING = """
SELECT p.proname FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE n.nspname OPERATOR(pg_catalog.=) 'pgnotifier'
AND p.proname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.text[]) AND NOT (
    pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
)
"""


def check_log(case: Case, link: Link) -> Findings:
    """Check that the log is installed, and that this role may do what the application does."""
    is_needed = bool(case.find_channels(durable=True))
    ((is_there,),) = link.ask(IS_THERE)
    if not is_there and not is_needed:
        yield ok("log", "The durable log isn't installed, and no subscription needs it.")
        return
    try:
        version = link.call(installing.check)
    except LogNotInstalledError as exc:
        yield failed("log", f"{_begin(exc)}.", "Run, as the owner of the log: pgnotifier install")
        return
    except LogRefusedError as exc:
        version = None
        if "for want of rights" not in str(exc):
            yield failed("log", f"{_begin(exc)}.", "Correct that, and run doctor again.")
            return
    parts: list[Part] = [part for part in installing.PARTS_SINCE if _may(link, part)]
    may = f"the role {_describe(parts)}"
    role = link.connection.info.user
    if is_needed and "listener" not in parts:
        yield failed(
            "log",
            f"The role {role!r} may not read the durable log, which the subscriptions do; {may}.",
            f"Run, as the owner of the log: pgnotifier install --grant-listener {role}",
        )
    elif version is None and not parts:
        yield warning(
            "log",
            f"The durable log is installed, but the role {role!r} has no right to it.",
            f"If it is to publish, run: pgnotifier install --grant-publisher {role}",
        )
    else:
        known = "" if version is None else f" in version {version}"
        yield ok("log", f"The durable log is installed{known}; {may}.")
    if "listener" in parts and version is not None:
        yield from _check_content(case, link)


def _check_content(case: Case, link: Link) -> Findings:
    places = link.call(positions)
    yield from _check_positions(case, [one for one in places if not one.channel.startswith(PREFIX)])
    for channel in case.find_channels(durable=True):
        if channel.startswith(PREFIX) and all(one.channel != channel for one in places):
            name = channel.removeprefix(PREFIX)
            yield warning("outbox", f"The outbox {name!r} has never been relayed.", _START)
    yield from _check_space(link.call(log_state))
    for outbox in link.call(outboxes):
        yield from _check_outbox(outbox)


_START = "Start the listener: pgnotifier listen, celery -A … pgnotifier, or manage.py pgnotifier."


def _check_positions(case: Case, places: list[Position]) -> Findings:
    subscribed = {
        (str(key), channel)
        for notifier in case.target.notifiers
        for channel, callbacks in notifier.get_subscriptions().items()
        for key in callbacks
        if notifier.get_durability(key, channel) is not None
    }
    unread = [
        one for one in places if _is_unread(one, is_ours=(one.name, one.channel) in subscribed)
    ]
    found = [
        warning(
            "positions",
            f"Nobody reads the durable subscription {one.name!r} to channel {one.channel!r}"
            f"{_describe_lag(one)}.",
            "Start its listener. If it is no more: pgnotifier positions forget "
            f"{one.name!r} --channel {one.channel!r}"
            if (one.name, one.channel) not in subscribed
            else _START,
        )
        for one in unread
    ]
    found += [
        warning(
            "dead letters",
            f"{count(one.dead, 'entry', 'entries')} of subscription {one.name!r} to channel "
            f"{one.channel!r} failed for good.",
            "See why: pgnotifier dead list. Then: pgnotifier dead retry or drop.",
        )
        for one in places
        if one.dead
    ]
    known = {(one.name, one.channel) for one in places}
    found += [
        warning(
            "positions",
            f"Nobody has read the durable subscription {key!r} to channel {channel!r} yet: it gets "
            "what is published after its listener has started.",
            _START,
        )
        for key, channel in sorted(subscribed - known)
        if not channel.startswith(PREFIX)
    ]
    if not found and places:
        most = max(one.lag or 0 for one in places)
        yield ok(
            "positions",
            f"{count(len(places), 'durable subscription')}, each with a reader or just left by "
            f"one; the farthest behind lacks {count(most, 'entry', 'entries')}.",
        )
    yield from found


def _is_unread(one: Position, *, is_ours: bool) -> bool:
    if one.reader_pid is not None or one.unread_since is None:
        return one.reader_pid is None and is_ours
    return is_ours or (datetime.now(UTC) - one.unread_since).total_seconds() > _UNREAD


def _describe_lag(one: Position) -> str:
    since = ""
    if one.unread_since is not None:
        passed = max(0.0, (datetime.now(UTC) - one.unread_since).total_seconds())
        since = f" for {duration(passed)}"
    behind = f": it lacks {count(one.lag, 'entry', 'entries')}" if one.lag else ""
    return f"{since}{behind}"


def _check_space(state: LogState) -> Findings:
    size = format_size(state.size)
    full = state.size / state.quota if state.quota else 0.0
    quota = f" of its quota of {format_size(state.quota)}" if state.quota else ""
    way_out = "Run: pgnotifier positions list, which shows what keeps it; or raise --quota."
    if state.is_full:
        yield failed("space", f"The log is full with {size}{quota}: it takes no more.", way_out)
    elif full >= _NEARLY_FULL:
        yield warning("space", f"The log has {size}{quota}, {percent(full)}.", way_out)
    else:
        yield ok("space", f"The log has {size}{quota}.")
    for one in state.holders:
        if one.kind != "retention" and one.size > _SHARE * state.size and one.size > 1024**3:
            yield warning(
                "space",
                f"{one} holds back {format_size(one.size)} of the log.",
                "Start its reader, or end that transaction or session.",
            )


def _check_outbox(one: OutboxState) -> Findings:
    name = f"The outbox {one.name!r}"
    waiting = "nothing waits"
    if one.waiting:
        verb = "waits" if one.waiting == 1 else "wait"
        oldest = duration(one.oldest_seconds)
        waiting = f"{count(one.waiting, 'message')} {verb}, the oldest for {oldest}"
    start = "Start a listener that relays this outbox."
    if one.reader_pid is None and one.waiting:
        yield failed("outbox", f"{name} has no relay: {waiting}.", start)
    elif one.reader_pid is None:
        yield warning("outbox", f"{name} has no relay; {waiting}.", start)
    elif one.oldest_seconds > _LATE:
        yield warning(
            "outbox",
            f"{name} is behind: {waiting}.",
            "See whether its broker takes messages: pgnotifier outbox, and the listener's log.",
        )
    else:
        yield ok("outbox", f"{name} is relayed by pid {one.reader_pid}; {waiting}.")
    if one.dead:
        yield warning(
            "outbox",
            f"{name} has {count(one.dead, 'dead letter')}.",
            "See why: pgnotifier outbox list --failed. Then: pgnotifier outbox retry or drop.",
        )


def _may(link: Link, part: Part) -> bool:
    granted = installing.grant_script("role", part)
    names = sorted({*re.findall(r"\bpgnotifier\.(\w+)\(", granted)})
    return not link.ask(LACKING, (names,))


def _describe(parts: Sequence[Part]) -> str:
    does = {
        "publisher": "publish",
        "listener": "listen",
        "enqueuer": "enqueue",
        "worker": "note what it has done",
    }
    return f"may {', '.join(does[one] for one in parts)}" if parts else "has no right to it"


def _begin(exc: Exception) -> str:
    reason = in_one_line(exc).rstrip(".")
    return reason[0].upper() + reason[1:]
