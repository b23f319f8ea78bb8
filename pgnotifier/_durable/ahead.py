"""Read ahead: the query that reads the entries after those that are being delivered."""

from pgnotifier._delivery.portions import Row
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.rows import Fetched, Place, Window
from pgnotifier._durable.translating import POOLED
from pgnotifier.errors import NotListeningError

_MOST_BYTES = 16_777_216
"""The payloads that are read together have about this many bytes at most, or it is a single one."""
_LONG = 4
"""A window with more entries than this many reads would be sorted too often."""
_NEAR = 1000
"""A transaction that was in progress is read in one range with later ones if its number is at most
this much lower. One that was open for longer would make the range too wide."""
# `t` is the tick at which the window ends, found as next_tick() finds it, `e` the window's end, and
# `w` the window; it is empty if the position is another one, or if the window can't be read as one
# range. The first row of the result has the window, and the others have the entries. The window
# ends at a snapshot that isn't newer than the statement's own, so the statement sees everything
# that is visible in it. Sizes are summed after sorting, so that the sort keeps no other entries.
_READ = """
WITH t AS MATERIALIZED (
    SELECT l.snap FROM pgnotifier.log AS l
    WHERE %(target)s::pg_catalog.pg_snapshot IS NULL
        AND l.xid OPERATOR(pg_catalog.>=) %(top)s::pg_catalog.xid8 AND l.snap IS NOT NULL
        AND pg_catalog.pg_snapshot_xmax(l.snap) OPERATOR(pg_catalog.>) %(top)s::pg_catalog.xid8
        AND pg_catalog.pg_snapshot_xmax(l.snap) OPERATOR(pg_catalog.<=)
            pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
    ORDER BY l.xid, l.id OFFSET 1 LIMIT 1
), e AS MATERIALIZED (
    SELECT COALESCE(
            %(target)s::pg_catalog.pg_snapshot, (SELECT snap FROM t),
            pg_catalog.pg_current_snapshot()
        ) AS target,
        %(target)s::pg_catalog.pg_snapshot IS NULL AND NOT EXISTS (SELECT FROM t) AS is_now
), w AS MATERIALIZED (
    SELECT u.channel::pg_catalog.text, p.id_hi, e.*,
        pg_catalog.pg_snapshot_xmax(e.target) AS top
    FROM e CROSS JOIN pgnotifier.subscription AS u CROSS JOIN LATERAL (
        SELECT q.n, q.id_hi FROM pgnotifier.position AS q
        WHERE q.sub OPERATOR(pg_catalog.=) u.sub ORDER BY q.n DESC LIMIT 1
    ) AS p
    WHERE u.sub OPERATOR(pg_catalog.=) %(sub)s AND p.n OPERATOR(pg_catalog.=) %(known)s
        AND pgnotifier.is_native(u.sub, p.n)
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_snapshot_xip(%(done)s::pg_catalog.pg_snapshot) AS one
            WHERE one OPERATOR(pg_catalog.<) %(bottom)s::pg_catalog.xid8
                AND pg_catalog.pg_visible_in_snapshot(one, e.target)
        )
        AND NOT EXISTS (
            SELECT FROM pgnotifier.log AS l
            WHERE l.xid OPERATOR(pg_catalog.>=) %(bottom)s::pg_catalog.xid8
                AND l.xid OPERATOR(pg_catalog.<) pg_catalog.pg_snapshot_xmax(e.target)
            OFFSET %(long)s
        )
)
SELECT f.id, f.at, pg_catalog.convert_to(f.key, pg_catalog.getdatabaseencoding()),
    pg_catalog.convert_to(f.payload, pg_catalog.getdatabaseencoding()), f.place
FROM (
    SELECT r.*, pg_catalog.sum(pg_catalog.octet_length(r.payload)) OVER (
            ORDER BY r.id NULLS FIRST ROWS UNBOUNDED PRECEDING
        ) OPERATOR(pg_catalog.-) pg_catalog.octet_length(r.payload) AS before
    FROM (
        SELECT NULL::pg_catalog.int8 AS id, NULL::pg_catalog.timestamptz AS at,
            NULL::pg_catalog.text AS key, NULL::pg_catalog.text AS payload, ARRAY[
                w.target::pg_catalog.text, w.is_now::pg_catalog.text, w.id_hi::pg_catalog.text,
                COALESCE(pg_catalog.pg_sequence_last_value('pgnotifier.log_id_seq'), 0)
                    ::pg_catalog.text,
                (
                    SELECT s.oid::pg_catalog.text FROM pg_catalog.pg_namespace AS s
                    WHERE s.nspname OPERATOR(pg_catalog.=) 'pgnotifier'
                ),
                pg_catalog.pg_backend_pid()::pg_catalog.text
            ] AS place
        FROM w
        UNION ALL
        SELECT l.id, l.at, l.key::pg_catalog.text, l.payload::pg_catalog.text, NULL
        FROM w JOIN pgnotifier.log AS l
        ON l.xid OPERATOR(pg_catalog.>=) %(bottom)s::pg_catalog.xid8
            AND l.xid OPERATOR(pg_catalog.<) w.top
            AND l.id OPERATOR(pg_catalog.>) %(last_id)s
            AND l.channel::pg_catalog.text OPERATOR(pg_catalog.=) w.channel
            AND pg_catalog.pg_visible_in_snapshot(l.xid, w.target)
            AND NOT pg_catalog.pg_visible_in_snapshot(
                l.xid, %(done)s::pg_catalog.pg_snapshot
            )
        ORDER BY id NULLS FIRST LIMIT %(most)s
    ) AS r
) AS f
WHERE f.id IS NULL OR f.before OPERATOR(pg_catalog.<) %(bytes)s
ORDER BY f.id NULLS FIRST
"""


def read_ahead(
    session: LogSession, sub: int, known: int, place: Place, limit: int
) -> Fetched | None:
    """Read what `LogSession.advance` would read after a place, in two thirds of the time.

    The server sends the rows of a plain query as it makes them. A PL/pgSQL function makes each row
    by several statements, and the server sends none before the function has returned.

    Args:
        session: The session, which holds the subscription.
        sub: The subscription's number.
        known: The number of the position after which the place was found.
        place: Where to read on.
        limit: How many entries to read at most. Their payloads have about 16 MiB together, or it is
            a single one.

    Returns:
        None if the position is another one, or if `advance` has to read the window, because it is
        long, or because a transaction that had been open for long has ended in it.

    Raises:
        NotListeningError: A pooler has given the session to another client.
        psycopg.OperationalError: The log was installed again, or restored, since `prepare`.
    """
    top, bottom = _range_after(place.done)
    values = {
        "sub": sub,
        "known": known,
        "top": str(top),
        "bottom": str(bottom),
        "done": place.done,
        "target": place.target,
        "last_id": place.last_id,
        "long": _LONG * limit,
        "most": limit + 1,
        "bytes": _MOST_BYTES,
    }
    found = session.connection.execute(_READ.encode(), values, prepare=True, binary=True).fetchall()
    if not found:
        return None
    target, is_now, id_hi, newest, schema, server_pid = found[0][-1]
    if int(server_pid) != session.server_pid:
        raise NotListeningError(POOLED)
    session.check_schema(int(schema))
    rows = [Row(*one[:4]) for one in found[1:]]
    is_rest = len(rows) < limit and sum(len(row.payload) for row in rows) < _MOST_BYTES
    window = Window(
        state="taken",
        n=known,
        done=place.done,
        target=target,
        last_id=place.last_id,
        is_now=is_now == "true",
        id_hi=int(id_hi),
        newest=int(newest),
    )
    return Fetched(window, rows, is_rest, is_held=True)


def _range_after(done: str) -> tuple[int, int]:
    """Return where the range of transactions begins that weren't visible in a snapshot.

    Returns:
        The lowest number that wasn't assigned yet; and the lowest one that was in progress, without
        those that had been open for long.
    """
    _, xmax, running = done.split(":")
    top = int(xmax)
    near = [one for one in map(int, filter(None, running.split(","))) if one >= top - _NEAR]
    return top, min(near, default=top)
