"""Open outboxes: make the subscription of a relay before anything is enqueued.

Without it, the log wouldn't keep what is enqueued before the relay runs for the first time.
Enqueuers may not subscribe to anything else.
"""

from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgnotifier._log.by_psycopg import for_psycopg
from pgnotifier._log.refusals import explained
from pgnotifier._log.sessions import Session

_OPEN = """
SELECT pgnotifier.open_outbox(CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text))
"""


def open_outbox(session: Session, name: str, channel: str) -> bool:
    """Make the subscription of a relay in the session's transaction, unless it is there.

    Args:
        session: What executes statements on the connection that enqueues.
        name: The subscription's id.
        channel: The channel of the outbox, which begins with "pgnotifier:".

    Returns:
        Whether the subscription is there for good, so that this need not be called again. False if
        this transaction, which may be rolled back, has made it.

    Raises:
        LogNotInstalledError: The database has no log, or an old one.
        LogRefusedError: The role has no right to enqueue, or the transaction is read-only.
    """
    with explained(channel):
        rows = session.execute(_OPEN, (name, channel))
    return bool(rows[0][0])


async def aopen_outbox(connection: psycopg.AsyncConnection[Any], name: str, channel: str) -> bool:
    """Do the same as `open_outbox` on an async connection of psycopg."""
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        with explained(channel):
            await cursor.execute(for_psycopg(_OPEN), (name, channel))
            row = await cursor.fetchone()
    return row is not None and bool(row[0])
