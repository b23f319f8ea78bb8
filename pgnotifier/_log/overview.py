"""Describe all durable subscriptions of a database, and what keeps the log's space."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pgnotifier._log.refusals import find_state
from pgnotifier._log.sessions import Given, Session, find_session
from pgnotifier.durability import MaxLag
from pgnotifier.errors import LogNotInstalledError, LogRefusedError, PgNotifierError, in_one_line
from pgnotifier.status import Holder, HolderKind, LogState, Position, Slot

# Times and durations are read as numbers of seconds. Otherwise, the session would write them as its
# DateStyle and IntervalStyle say, and psycopg reads only the styles ISO and postgres.
_POSITIONS = """
SELECT name, channel, pg_catalog.extract('epoch', saved_at), lag,
    pg_catalog.extract('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) oldest),
    rate, failed, attempts, dead, pid, pg_catalog.extract('epoch', read_at), max_entries, max_bytes,
    pg_catalog.extract('epoch', max_age), dropped, sub
FROM pgnotifier.list_positions()
"""
_SLOTS = """
SELECT slot, bytes, is_current, first_id, last_id, pg_catalog.extract('epoch', oldest),
    pg_catalog.extract('epoch', newest), keepers
FROM pgnotifier.slots()
"""
_LIMITS = """
SELECT pg_catalog.extract('epoch', retention), quota, last_value,
    pg_catalog.extract('epoch', pg_catalog.clock_timestamp())
FROM pgnotifier.limits CROSS JOIN pgnotifier.slot
"""
_LOCK_HOLDERS = """
SELECT slot, kind, pid, gid, pg_catalog.extract('epoch', since) FROM pgnotifier.lock_holders()
"""
_FULL = 8
"""The number of the current slot while publications are refused."""


def positions(connection: Given) -> list[Position]:
    """Return all durable subscriptions of a database, also those that nobody reads any more.

    Args:
        connection: A connection of psycopg, psycopg2, SQLAlchemy or Django, as for `publish`, with
            the rights of a listener.

    Raises:
        LogNotInstalledError: The log isn't installed, or is too old.
        LogRefusedError: The role has no right to read it.
    """
    session = find_session(connection)
    with explained():
        return [one for one, _ in _list_positions(session, _list_slots(session))]


def log_state(connection: Given) -> LogState:
    """Return how large the log of a database is, and what holds its space back.

    Args:
        connection: As for `positions`. When other roles' transactions began is only known to roles
            that may see it, as members of pg_read_all_stats may.

    Raises:
        LogNotInstalledError: The log isn't installed, or is too old.
        LogRefusedError: The role has no right to read it.
    """
    session = find_session(connection)
    with explained():
        slots = _list_slots(session)
        found = _list_positions(session, slots)
        ((kept_for, quota, current, now),) = session.execute(_LIMITS, ())
        locks = session.execute(_LOCK_HOLDERS, ())
    retention = _duration(kept_for) or timedelta()
    since = _time(now - kept_for)
    holders = [
        *(_subscription_holder(one, behind_since, slots) for one, behind_since in found),
        *_lock_holders(locks, slots),
        _make_holder("retention", [s for s, _ in slots if _is_newer(s, since)]),
    ]
    return LogState(
        size=sum(slot.size for slot, _ in slots),
        quota=quota,
        is_full=current == _FULL,
        retention=retention,
        slots=tuple(slot for slot, _ in slots),
        holders=tuple(
            sorted((one for one in holders if one.slots), key=lambda one: one.size, reverse=True)
        ),
    )


_Slots = Sequence[tuple[Slot, Sequence[int]]]
"""Slots, each with the numbers of the subscriptions that keep it."""


def _list_slots(session: Session) -> _Slots:
    return [
        (Slot(number, size, is_current, first, last, _time(oldest), _time(newest)), keepers)
        for number, size, is_current, first, last, oldest, newest, keepers in session.execute(
            _SLOTS, ()
        )
    ]


def _list_positions(session: Session, slots: _Slots) -> list[tuple[Position, datetime | None]]:
    """Return the positions, each with the time since when it is behind."""
    found = []
    for row in session.execute(_POSITIONS, ()):
        name, channel, saved_at, lag, seconds, rate, failed, attempts, dead, *rest = row
        pid, read_at, entries, size, age, dropped, sub = rest
        limits = (entries, size, _duration(age))
        kept = [slot for slot, keepers in slots if sub in keepers]
        position = Position(
            name=name,
            channel=channel,
            saved_at=_time(saved_at),
            lag=lag,
            lag_seconds=max(0.0, float(seconds or 0.0)),
            rate=rate,
            failed=failed,
            attempts=attempts,
            dead=dead,
            reader_pid=pid,
            unread_since=_time(read_at) if pid is None else None,
            max_lag=MaxLag(*limits) if any(one is not None for one in limits) else None,
            dropped=dropped,
            slots=tuple(slot.number for slot in kept),
            kept_bytes=sum(slot.size for slot in kept),
        )
        behind_since = min((one.oldest for one in kept if one.oldest is not None), default=None)
        found.append((position, behind_since))
    return found


def _subscription_holder(one: Position, since: datetime | None, slots: _Slots) -> Holder:
    kept = [slot for slot, _ in slots if slot.number in one.slots]
    return _make_holder("subscription", kept, since=since, name=one.name, channel=one.channel)


def _lock_holders(rows: Sequence[tuple[Any, ...]], slots: _Slots) -> Iterator[Holder]:
    by_number = {slot.number: slot for slot, _ in slots}
    grouped: dict[tuple[HolderKind, int | None, str | None, datetime | None], list[Slot]] = {}
    for number, kind, pid, gid, since in rows:
        if number in by_number:
            grouped.setdefault((kind, pid, gid, _time(since)), []).append(by_number[number])
    for (kind, pid, gid, since), held in grouped.items():
        yield _make_holder(kind, held, since=since, pid=pid, gid=gid)


def _make_holder(kind: HolderKind, held: Sequence[Slot], **details: Any) -> Holder:
    # New entries go to the current slot anyway, so nobody holds it back.
    past = [slot for slot in held if not slot.is_current]
    return Holder(
        kind, tuple(slot.number for slot in past), sum(slot.size for slot in past), **details
    )


def _is_newer(slot: Slot, since: datetime | None) -> bool:
    return slot.newest is not None and since is not None and slot.newest >= since


def _time(seconds: Decimal | None) -> datetime | None:
    """Return the time of a number of seconds since the beginning of 1970."""
    since = _duration(seconds)
    return None if since is None else datetime(1970, 1, 1, tzinfo=UTC) + since


def _duration(seconds: Decimal | None) -> timedelta | None:
    return None if seconds is None else timedelta(microseconds=round(seconds * 1_000_000))


@contextmanager
def explained() -> Iterator[None]:
    """Replace errors of drivers by our own, where there is an explanation."""
    try:
        yield
    except PgNotifierError:
        raise
    except Exception as exc:
        reason = in_one_line(getattr(exc, "orig", exc))
        match find_state(exc):
            case "3F000" | "42P01" | "42883":
                raise LogNotInstalledError(
                    f"this database has no durable log, or an old one. Run: pgnotifier install "
                    f"({reason})"
                ) from exc
            case "42501":
                raise LogRefusedError(
                    "this role may not read the durable log. "
                    f"Run: pgnotifier install --grant-listener ROLE ({reason})"
                ) from exc
        raise
