"""Check who else is connected: who listens, which transactions are old, how full the queue is."""

import re
from collections.abc import Sequence
from typing import Any

from pgnotifier._listener.pause import IDENTITY
from pgnotifier._listener.queue_usage import LIMIT, OLDEST, USAGE
from pgnotifier._listener.reader_connection import LONG_ROW
from pgnotifier._runtime.log_records import count, duration, percent
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Findings, failed, ok, warning
from pgnotifier.cli.doctor.link import NAME, Link
from pgnotifier.cli.finding import find_channels

_NEARLY_FULL = 0.5
_HIDDEN = "<insufficient privilege>"
"""What the server shows instead of the query of another role's session."""

SESSIONS = """
SELECT pid, usename, application_name, pg_catalog.host(client_addr), query, EXISTS (
    SELECT FROM pg_catalog.pg_locks AS held
    WHERE held.pid OPERATOR(pg_catalog.=) a.pid AND held.locktype OPERATOR(pg_catalog.=) 'advisory'
    AND mode OPERATOR(pg_catalog.=) 'ExclusiveLock'
    AND objsubid OPERATOR(pg_catalog.=) 1 AND granted
)
FROM pg_catalog.pg_stat_activity AS a
WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
AND pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
AND application_name OPERATOR(pg_catalog.<>) %s
AND (backend_type IS NULL OR backend_type OPERATOR(pg_catalog.=) 'client backend')
ORDER BY backend_start, pid
"""
OLD = """
SELECT pid, usename, application_name, datname, state, pg_catalog.extract('epoch',
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) xact_start)::pg_catalog.float8
FROM pg_catalog.pg_stat_activity
WHERE pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
AND backend_type OPERATOR(pg_catalog.=) 'client backend'
AND xact_start OPERATOR(pg_catalog.<) (
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) %s::pg_catalog.interval
)
ORDER BY xact_start
"""

_LISTENS = re.compile(
    r'\s*(?:LISTEN\s+(?!"?pgnotifier_wake\b)|NOTIFY\s+"?pgnotifier_[0-9a-f]{32}\b)', re.IGNORECASE
)
_READERS_QUERIES = frozenset(
    " ".join(one.decode().split()) for one in (IDENTITY, LONG_ROW, USAGE, OLDEST, b"SELECT 1")
)
"""The queries that a listener's reader sends now and then."""


def check_listening(case: Case, link: Link) -> Findings:
    """Check who listens in this database, as far as the last query of each session shows it."""
    wanted = case.find_channels(durable=False)
    if case.target.notifiers and not wanted:
        yield ok("listening", "There is nothing to listen to: all subscriptions are durable.")
        return
    rows = link.ask(SESSIONS, (NAME,))
    names = {"pgnotifier", link.application_name or "pgnotifier"}
    hidden = [one for one in rows if one[4] in (None, _HIDDEN) and one[2] in names]
    found = [one for one in rows if _listens(one, names)]
    if not found and hidden:
        yield ok(
            "listening",
            f"{count(len(hidden), 'session')} of other roles may listen; only pg_read_all_stats "
            "shows what they do.",
        )
    elif not found:
        yield warning(
            "listening",
            "No session listens in this database: notifications reach nobody.",
            "Start the listener: pgnotifier listen, celery -A … pgnotifier, or manage.py "
            "pgnotifier; and compare its database with this one.",
        )
    else:
        yield from _describe(case, found)


def _describe(case: Case, found: Sequence[tuple[Any, ...]]) -> Findings:
    shown = ", ".join(
        f"pid {pid} ({name!r}, user {user!r}{f', from {host}' if host else ''}"
        f"{', leader' if leads else ''})"
        for pid, user, name, host, _, leads in found
    )
    alone = [one for one in found if not one[-1]]
    expected = sum(any(find_channels(one, durable=False)) for one in case.target.notifiers)
    seen = f"{count(len(found), 'session')} listen{'s' if len(found) == 1 else ''}: {shown}."
    if len(alone) > max(1, expected):
        yield warning(
            "listening",
            f"{seen} Each of those without a leader delivers every notification, so that it is "
            "worked on several times.",
            "If they are copies of one listener, give all of them the same standby= (or "
            "--standby), so that only one listens. If they are different programs, all is well.",
        )
    else:
        yield ok("listening", seen)


def check_transactions(case: Case, link: Link) -> Findings:
    """Check that no transaction has been open for long."""
    rows = link.ask(OLD, (f"{case.old:f} s",))
    found = [
        warning(
            "transactions",
            f"pid {pid} (user {user!r}, application {name!r}, database {database!r}) has had a "
            f"transaction open for {duration(seconds)}, and is {state}.",
            "What it has notified or published arrives when it commits. If it listens, PostgreSQL "
            "keeps all notifications from then on. Have it commit, or end it: SELECT "
            f"pg_terminate_backend({pid}). idle_in_transaction_session_timeout ends such sessions.",
        )
        for pid, user, name, database, state, seconds in rows
    ]
    if not found:
        seen = f"No transaction has been open for longer than {duration(case.old)}."
        yield ok("transactions", seen)
    yield from found


def check_queue(_: Case, link: Link) -> Findings:
    """Check how full PostgreSQL's queue of notifications is, and who holds it back."""
    ((usage,),) = link.ask(USAGE.decode())
    usage = float(usage)
    seen = f"PostgreSQL's queue of notifications is {percent(usage) if usage else '0 %'} full"
    if usage < LIMIT:
        yield ok("queue", f"{seen}.")
        return
    rows = link.ask(OLDEST.decode())
    culprit = "no open transaction is visible; perhaps a session listens and doesn't read"
    if rows:
        pid, user, name, state, database, seconds = rows[0]
        culprit = (
            f"the oldest open transaction is that of pid {pid} (user {user!r}, application "
            f"{name!r}, database {database!r}), {state} for {duration(float(seconds))}"
        )
    found = failed if usage >= _NEARLY_FULL else warning
    yield found(
        "queue",
        f"{seen}: {culprit}.",
        "Once it is full, every COMMIT with a NOTIFY fails. End the session that holds it back, "
        "with SELECT pg_terminate_backend(pid).",
    )


def _listens(row: tuple[Any, ...], names: set[str]) -> bool:
    _, _, name, _, query, _ = row
    if not query or query == _HIDDEN:
        return False
    is_readers = name in names and " ".join(query.split()) in _READERS_QUERIES
    return is_readers or _LISTENS.match(query) is not None
