"""Make, move and delete the positions of subscriptions in the log."""

from datetime import datetime
from typing import Any, Literal

import psycopg

from pgnotifier._log.guard import reanchor
from pgnotifier.durability import MaxLag
from pgnotifier.errors import ArgumentTypeError

Start = Literal["now", "oldest"] | datetime | int
"""Where a subscription begins: now, at the oldest entry that is kept, at the first entry that was
published at a time or later, or at an id."""

_SUBSCRIBE = (
    "SELECT pgnotifier.subscribe(%s, %s, %s, %s::pg_catalog.int8, %s::pg_catalog.timestamptz)"
)
_LIMIT_LAG = """
SELECT pgnotifier.limit_lag(%s, %s::pg_catalog.int8, %s::pg_catalog.int8, %s::pg_catalog.interval)
"""
_SEEK = "SELECT pgnotifier.seek(%s, %s, %s, %s::pg_catalog.int8, %s::pg_catalog.timestamptz)"
_FORGET = "SELECT pgnotifier.forget(%s, %s)"
_NAMES = """
SELECT name FROM pgnotifier.subscription WHERE channel OPERATOR(pg_catalog.=) %s ORDER BY sub
"""


def subscribe(
    connection: psycopg.Connection[Any], name: str, channel: str, start: Start = "now"
) -> int:
    """Return the number of a subscription; make it first if it is new.

    Args:
        connection: A connection of `Parameters`.
        name: The subscription's id.
        channel: Its channel.
        start: Where it begins, if it is new.
    """
    row = connection.execute(_SUBSCRIBE, (name, channel, *_since(start))).fetchone()
    assert row is not None
    return int(row[0])


def limit_lag(connection: psycopg.Connection[Any], sub: int, max_lag: MaxLag | None) -> None:
    """Limit how far a subscription may be behind, whether or not anybody reads it.

    Args:
        connection: A connection of `Parameters`.
        sub: What `subscribe` returned.
        max_lag: The limit; None for none.
    """
    given: tuple[Any, ...] = (None, None, None)
    if max_lag is not None:
        given = (max_lag.entries, max_lag.bytes, max_lag.age)
    connection.execute(_LIMIT_LAG, (sub, *given))


def seek(connection: psycopg.Connection[Any], name: str, channel: str, to: Start) -> bool:
    """Move the position of a subscription, and wake its reader; return whether it exists.

    It waits until a batch that is under way is done.
    """
    values = (name, channel, *_since(to))
    try:
        row = connection.execute(_SEEK, values).fetchone()
    except psycopg.errors.ObjectNotInPrerequisiteState:  # the log is a copy
        if not reanchor(connection):
            raise
        row = connection.execute(_SEEK, values).fetchone()
    assert row is not None
    connection.execute("NOTIFY pgnotifier_wake")
    return bool(row[0])


def forget(connection: psycopg.Connection[Any], name: str, channel: str) -> bool:
    """Delete a subscription, its position and what has failed for it; return whether it existed."""
    row = connection.execute(_FORGET, (name, channel)).fetchone()
    assert row is not None
    return bool(row[0])


def find_names(connection: psycopg.Connection[Any], channel: str) -> list[str]:
    """Return the ids of the subscriptions to a channel, in the order in which they were made."""
    return [name for (name,) in connection.execute(_NAMES, (channel,))]


def _since(start: Start) -> tuple[str, int | None, datetime | None]:
    """Return the arguments of the schema's functions.

    Raises:
        ArgumentTypeError: It isn't a place to start at.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ArgumentTypeError(f"a time to start at needs a time zone: {start!r}")
        return "time", None, start
    if isinstance(start, int) and not isinstance(start, bool):
        return "id", start, None
    if start in ("now", "oldest"):
        return start, None, None
    raise ArgumentTypeError(f"start with 'now', 'oldest', a datetime or an id, not {start!r}")
