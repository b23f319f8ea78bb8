"""List what waits in outboxes and what has failed, and take waiting entries out of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pgnotifier._log.by_psycopg import ARRAY
from pgnotifier._log.outbox_values import EntryState, OutboxEntry, OutboxState, QueueState
from pgnotifier._log.overview import explained, positions
from pgnotifier._log.sessions import Given, Rows, Session, find_session

COUNTED = 100_000
"""How many waiting entries of an outbox are counted at most."""
SEARCHED = 100_000
"""Among how many entries `search_entries` looks for those of a task."""
MOST = 2**31 - 1
"""The highest limit of a list."""
_REQUESTED = '"args": '
"""What SQL writes into each message that it asks for, and finished messages don't have."""
PREFIX = "pgnotifier:"
"""The prefix of the channels of outboxes."""

_IDS = f"CAST({ARRAY} AS pg_catalog.int8[])"
_OUTBOXES = """
SELECT sub, name, channel FROM pgnotifier.subscription
WHERE pg_catalog.starts_with(channel, 'pgnotifier:') ORDER BY channel, sub
"""
# Ages and times are read as numbers, as `overview` does.
_COUNT = """
SELECT queue, entries,
    pg_catalog.extract('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) oldest), is_all
FROM pgnotifier.count_waiting(CAST(%s AS pg_catalog.int4), CAST(%s AS pg_catalog.int4))
"""
_COUNT_FAILED = """
SELECT pg_catalog.convert_to(key, pg_catalog.getdatabaseencoding()),
    pg_catalog.count(*) FILTER (WHERE NOT dead), pg_catalog.count(*) FILTER (WHERE dead)
FROM pgnotifier.failed WHERE sub OPERATOR(pg_catalog.=) CAST(%s AS pg_catalog.int4)
GROUP BY key LIMIT 1000
"""
_RATES = """
SELECT pg_catalog.convert_to(given.key, pg_catalog.getdatabaseencoding()), given.rate
FROM pgnotifier.reader AS r CROSS JOIN ROWS FROM (
    pg_catalog.unnest(r.keys), pg_catalog.unnest(r.key_rates)
) AS given (key, rate)
WHERE r.sub OPERATOR(pg_catalog.=) CAST(%s AS pg_catalog.int4)
"""
_LIST = f"""
SELECT state, id, task, task_id, queue_name, pg_catalog.extract('epoch', at),
    pg_catalog.extract('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) at),
    size, n, attempts, pg_catalog.extract('epoch', failed_at), error, payload
FROM pgnotifier.list_outbox(
    CAST(%s AS pg_catalog.int4), CAST(%s AS pg_catalog.int4), CAST(%s AS pg_catalog.bool),
    {_IDS}, CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.bool)
)
"""  # noqa: S608
_SET_ASIDE = f"""
SELECT pg_catalog.array_to_string(made, ' '), is_read
FROM pgnotifier.set_aside(CAST(%s AS pg_catalog.int4), {_IDS}, CAST(%s AS pg_catalog.text))
"""  # noqa: S608


def outboxes(connection: Given, *, counts: bool = True) -> list[OutboxState]:
    """Return all outboxes of a database, also those that nobody relays any more.

    Args:
        connection: As for `positions`.
        counts: Whether to count what waits. Up to 100,000 entries are counted.

    Raises:
        LogNotInstalledError: The log isn't installed, or is too old.
        LogRefusedError: The role has no right to read it.
    """
    session = find_session(connection)
    places = {(one.name, one.channel): one for one in positions(connection)}
    found = []
    with explained():
        for sub, name, channel in session.execute(_OUTBOXES, ()):
            place = places.get((name, channel))
            if place is None:  # it was made a moment ago
                continue
            counted = session.execute(_COUNT, (sub, COUNTED)) if counts else ()
            failed = session.execute(_COUNT_FAILED, (sub,)) if counts else ()
            rates = session.execute(_RATES, (sub,)) if counts and place.rate is not None else None
            queues = _by_queue(session, counted, failed, rates)
            found.append(
                OutboxState(
                    sub=sub,
                    name=channel.removeprefix(PREFIX),
                    channel=channel,
                    subscription=name,
                    waiting=sum(one.waiting for one in queues),
                    is_exact=place.lag is not None and counts and all(row[3] for row in counted),
                    oldest_seconds=max((one.oldest_seconds for one in queues), default=0.0),
                    rate=place.rate,
                    failed=place.failed,
                    dead=place.dead,
                    reader_pid=place.reader_pid,
                    unread_since=place.unread_since,
                    queues=queues,
                )
            )
    return found


def _by_queue(
    session: Session, counted: Rows, failed: Rows, rates: Rows | None
) -> tuple[QueueState, ...]:
    """Return the figures of queues: what waits for each, what has failed, and what is sent.

    Several keys may be of one queue, as each has a priority.

    Args:
        session: Where the figures are from.
        counted: What waits, by queue.
        failed: What is being retried and what is dead, by key.
        rates: How many are sent in a second, by key; None if that isn't known.
    """
    none = QueueState(None, 0, 0.0, 0, 0, None if rates is None else 0.0)
    found: dict[str | None, QueueState] = {}
    for name, entries, seconds, _ in counted:
        queue = _text(session, name)
        found[queue] = replace(
            none, queue=queue, waiting=entries, oldest_seconds=max(0.0, float(seconds))
        )
    for key, retried, dead in failed:
        queue = queue_of(_text(session, key))
        one = found.get(queue, none)
        found[queue] = replace(one, queue=queue, failed=one.failed + retried, dead=one.dead + dead)
    for key, rate in rates or ():
        queue = queue_of(_text(session, key))
        one = found.get(queue, none)
        found[queue] = replace(one, queue=queue, rate=(one.rate or 0.0) + rate)
    return tuple(found.values())


def queue_of(key: str | None) -> str | None:
    """Return the queue in a key, as `pgnotifier.queue_of` does."""
    exchange, found, rest = (key or "").partition("\x1f")
    if not found:
        return key
    routing_key = rest.partition("\x1f")[0]
    return f"{exchange}/{routing_key}" if exchange else routing_key


def list_entries(
    connection: Given,
    sub: int,
    *,
    failed: bool = False,
    ids: Sequence[int] | None = None,
    queue: str | None = None,
    routed: bool = False,
    task: str | None = None,
    state: EntryState | None = None,
    limit: int = 100,
    reads: bool = False,
) -> list[OutboxEntry]:
    """Return entries of an outbox: what waits, in order; or what has failed, the oldest first.

    Args:
        connection: As for `positions`.
        sub: The number of the relay's subscription.
        failed: Return what has failed, instead of what waits.
        ids: Only those with these numbers in the log.
        queue: Only those for this queue.
        routed: Only those for which the relay chooses the queue.
        task: Only those of the task of this name.
        state: Only those in this state.
        limit: How many to return at most.
        reads: Whether to read their messages, too.

    Raises:
        LogNotInstalledError: The log isn't installed, or is too old.
        LogRefusedError: The role has no right to read it.
    """
    given = _Filter(
        sub=sub,
        failed=failed,
        ids=ids,
        queue=queue,
        routed=routed,
        task=task,
        state=state,
        reads=reads,
    )
    return given.search(find_session(connection), limit, MOST)[0]


def search_entries(
    connection: Given,
    sub: int,
    *,
    failed: bool = False,
    queue: str | None = None,
    routed: bool = False,
    task: str | None = None,
    state: EntryState | None = None,
    limit: int = 100,
) -> tuple[list[OutboxEntry], bool]:
    """Do the same in a limited time, for people who wait for it.

    Returns:
        The entries, and whether there may be more: of a task, they were looked for among the first
        `SEARCHED` entries that contain its name anywhere, or `limit` if that is more; of those for
        which the relay chooses the queue, and of a state, among as many.
    """
    given = _Filter(sub=sub, failed=failed, queue=queue, routed=routed, task=task, state=state)
    return given.search(find_session(connection), limit, max(limit, SEARCHED))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filter:
    """Which entries of an outbox to return: see `list_entries`."""

    sub: int
    failed: bool = False
    ids: Sequence[int] | None = None
    queue: str | None = None
    routed: bool = False
    task: str | None = None
    state: EntryState | None = None
    reads: bool = False

    def search(self, session: Session, limit: int, most: int) -> tuple[list[OutboxEntry], bool]:
        """Return the entries, and whether there may be more among those that weren't searched.

        PostgreSQL finds the task's name anywhere in a message, maybe in its arguments. So what it
        returns may be too little, and then it is asked for more, up to `most`.
        """
        asked = limit
        while True:
            rows = self._read(session, asked)
            entries = (_entry(session, row) for row in rows)
            found = [one for one in entries if self._fits(one)][:limit]
            if len(found) == limit or len(rows) < asked:
                return found, False
            if asked >= most:
                return found, True
            asked = min(10 * asked, most)

    def _fits(self, one: OutboxEntry) -> bool:
        return (
            (self.task is None or one.task == self.task)
            and (not self.routed or one.queue is None)
            and self.state in (None, one.state)
        )

    @property
    def _part(self) -> str | None:
        """A text that the messages have, and few others."""
        # Names that aren't ASCII may or may not be escaped in the message.
        if self.task is not None and self.task.isascii():
            return json.dumps(self.task)
        return _REQUESTED if self.routed else None

    def _read(self, session: Session, limit: int) -> Rows:
        ids = _array(session, self.ids)
        with explained():
            return session.execute(
                _LIST, (self.sub, limit, self.failed, ids, self.queue, self._part, self.reads)
            )


def set_aside(
    connection: Given, sub: int, ids: Sequence[int], reason: str
) -> tuple[list[int], bool]:
    """Make dead letters of entries that wait, so that the relay passes them over.

    Args:
        connection: As for `positions`.
        sub: The number of the relay's subscription.
        ids: The numbers of the entries in the log.
        reason: What the dead letters say.

    Returns:
        The numbers of the dead letters, and whether the relay was just reading: then it may
        already have taken some of the entries, and sends them.

    Raises:
        LogNotInstalledError: The log isn't installed, or is too old.
        LogRefusedError: The role has no right to.
    """
    session = find_session(connection)
    with explained():
        rows = session.execute(_SET_ASIDE, (sub, _array(session, ids), reason))
    ((numbers, is_read),) = rows
    return [int(one) for one in numbers.split()], bool(is_read)


def _array(session: Session, ids: Sequence[int] | None) -> Any:
    return None if ids is None else session.array([str(one) for one in ids])


def _entry(session: Session, row: tuple[Any, ...]) -> OutboxEntry:
    state, number, task, task_id, queue, at, age, size, n, *rest = row
    attempts, failed_at, error, payload = rest
    return OutboxEntry(
        state=state,
        id=number,
        task=_unquote(_text(session, task)),
        task_id=_unquote(_text(session, task_id)),
        queue=_text(session, queue),
        enqueued_at=_time(at),
        age=max(0.0, float(age)),
        size=size,
        n=n,
        attempts=attempts,
        failed_at=None if failed_at is None else _time(failed_at),
        error=_text(session, error),
        payload=_text(session, payload),
    )


def _text(session: Session, data: Any) -> str | None:
    """Return a text; U+FFFD stands for what has no equivalent in UTF-8."""
    if data is None:
        return None
    read = bytes(data)
    return (session.encoding.to_utf8(read) if session.encoding else read).decode("utf-8", "replace")


def _unquote(text: str | None) -> str | None:
    """Return the string that a JSON string stands for."""
    try:
        return None if text is None else str(json.loads(text))
    except ValueError:
        return text


def _time(seconds: Any) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(seconds * 1_000_000))
