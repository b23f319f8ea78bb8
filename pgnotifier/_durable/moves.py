"""Moves: a subscription that an entry holds up goes on at once when somebody moves its position."""

from collections.abc import Collection

from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.progress import Progress

_FIND_MOVED = """
SELECT k.sub
FROM ROWS FROM (
    pg_catalog.unnest(%(subs)s::pg_catalog.int4[]),
    pg_catalog.unnest(%(known)s::pg_catalog.int8[])
) AS k (sub, n)
WHERE COALESCE(k.n, 0) OPERATOR(pg_catalog.<>) COALESCE((
    SELECT pg_catalog.max(p.n) FROM pgnotifier.position AS p
    WHERE p.sub OPERATOR(pg_catalog.=) k.sub
), 0)
"""


def notice_moves(session: LogSession, progress: Collection[Progress]) -> None:
    """End the pauses of subscriptions that are held up, but no longer at the position they were at.

    One query looks at all of them, once a second while there are some: the next try of an entry may
    be ten minutes away, and whoever has moved the position (or forgotten it) may be anywhere.

    Args:
        session: The session.
        progress: The source's subscriptions.

    Raises:
        psycopg.Error: The session has ended, or refuses something.
    """
    if not any(one.turn.looks_for_a_move for one in progress):
        return
    held_up = [one for one in progress if one.turn.is_held_up]
    for one in held_up:
        one.turn.note_look()
    values = {
        "subs": [one.sub for one in held_up],
        "known": [one.reading.bookmark.known for one in held_up],
    }
    found = session.connection.execute(_FIND_MOVED.encode(), values).fetchall()
    moved = {sub for (sub,) in found}
    for one in held_up:
        if one.sub in moved:
            one.turn.go_on()
            one.tally.note_free()
