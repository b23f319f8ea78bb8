"""News: one query finds which of many subscriptions have something to read."""

from collections.abc import Collection

from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.progress import Progress
from pgnotifier._durable.translating import POOLED
from pgnotifier.errors import NotListeningError

MANY = 5
"""From how many caught-up subscriptions on one query for all of them is worth it."""
# Snapshots are compared as `advance()` does: an entry is new if its transaction wasn't visible in
# the one before. The query is planned each time rather than prepared: a plan that was made while
# the slots were small would read all of them.
_FIND_NEWS = """
SELECT pg_catalog.pg_backend_pid(), (
    SELECT s.oid FROM pg_catalog.pg_namespace AS s
    WHERE s.nspname OPERATOR(pg_catalog.=) 'pgnotifier'
), pg_catalog.pg_current_snapshot()::pg_catalog.text,
COALESCE(pg_catalog.pg_sequence_last_value('pgnotifier.log_id_seq'), 0), ARRAY(
    SELECT k.sub
    FROM ROWS FROM (
        pg_catalog.unnest(%(subs)s::pg_catalog.int4[]),
        pg_catalog.unnest(%(known)s::pg_catalog.int8[])
    ) AS k (sub, n)
    LEFT JOIN pgnotifier.subscription AS u ON u.sub OPERATOR(pg_catalog.=) k.sub
    WHERE u.channel IS NULL
        OR new.entries OPERATOR(pg_catalog.>=) 1000
        OR u.channel OPERATOR(pg_catalog.=) ANY (new.channels)
        OR k.n OPERATOR(pg_catalog.<>) COALESCE((
            SELECT pg_catalog.max(p.n) FROM pgnotifier.position AS p
            WHERE p.sub OPERATOR(pg_catalog.=) k.sub
        ), 0)
        OR EXISTS (
            SELECT FROM pgnotifier.failed AS f
            WHERE f.sub OPERATOR(pg_catalog.=) k.sub AND NOT f.dead
        )
)
FROM (
    SELECT pg_catalog.array_agg(DISTINCT e.channel) AS channels, pg_catalog.count(*) AS entries
    FROM (
        (
            SELECT l.channel::pg_catalog.text FROM pgnotifier.log AS l
            WHERE l.xid OPERATOR(pg_catalog.>=)
                pg_catalog.pg_snapshot_xmax(%(since)s::pg_catalog.pg_snapshot)
            ORDER BY l.xid, l.id LIMIT 1000
        )
        UNION ALL
        SELECT o.channel
        FROM pg_catalog.pg_snapshot_xip(%(since)s::pg_catalog.pg_snapshot) AS late
        CROSS JOIN LATERAL (
            SELECT l.channel::pg_catalog.text FROM pgnotifier.log AS l
            WHERE l.xid OPERATOR(pg_catalog.=) late ORDER BY l.xid, l.id LIMIT 1000
        ) AS o
    ) AS e
) AS new
"""


def find_news(session: LogSession, progress: Collection[Progress]) -> Collection[Progress]:
    """Return the subscriptions to visit, without those for which nothing is new.

    Without this, each visit would take a query that finds nothing. A subscription has news if
    something was published on its channel, if something is to be retried, or if its position was
    moved or forgotten. After a thousand new entries, whatever their channels are, all are visited.

    Args:
        session: The session.
        progress: The source's subscriptions.

    Raises:
        NotListeningError: A pooler has given the session to another client.
        psycopg.Error: The session has ended, or refuses something.
    """
    waiting = {one.sub: one for one in progress if one.is_caught_up}
    if len(waiting) < MANY:
        return progress
    known = [one.reading.bookmark.known for one in waiting.values()]
    since = min({str(one.reading.bookmark.ahead) for one in waiting.values()}, key=_moment)
    values = {"since": since, "subs": [*waiting], "known": known}
    found = session.connection.execute(_FIND_NEWS.encode(), values).fetchone()
    assert found is not None
    pid, schema, now, newest, with_news = found
    if pid != session.server_pid:
        raise NotListeningError(POOLED)
    session.check_schema(schema)
    passed_over = {one for sub, one in waiting.items() if sub not in with_news}
    for one in passed_over:
        one.pass_over(now, newest)
    return [one for one in progress if one not in passed_over]


def _moment(snapshot: str) -> tuple[int, int, int]:
    """Return a sort key for snapshots: an earlier one has seen fewer transactions."""
    xmin, xmax, running = snapshot.split(":")
    return int(xmin), int(xmax), -len(running.split(",")) if running else 0
