"""Refuse servers on which positions would be wrong, and repair positions that were copied.

A position refers to transactions by their numbers, which mean nothing on another server. A crash, a
promotion and pg_upgrade keep them. After a dump was restored, or the database was replicated
logically, `advance()` finds a window that is "foreign", and `reanchor` repairs all positions.
"""

import logging
from typing import Any

import psycopg
from psycopg import errors

from pgnotifier._log.installing import check
from pgnotifier._runtime.log_records import about
from pgnotifier.errors import LogRefusedError

logger = logging.getLogger("pgnotifier.log")

_IS_STANDBY = "SELECT pg_catalog.pg_is_in_recovery()"
_REPEATABLE = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_REANCHOR = "SELECT pgnotifier.reanchor()"
_LATER = (
    errors.LockNotAvailable,  # another session repairs them, or advances a subscription
    errors.SerializationFailure,  # another has just done so
)
# No transaction here can have such a number yet.
_HAS_FOREIGN = """
SELECT EXISTS (
    SELECT FROM pgnotifier.log AS l WHERE l.xid OPERATOR(pg_catalog.>=)
        pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
)
"""


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Check that the durable log can be read on a server.

    Raises:
        LogRefusedError: It is a hot standby, or the role has no right to use the log.
        LogNotInstalledError: The log isn't installed, or is too old.
    """
    row = connection.execute(_IS_STANDBY).fetchone()
    if row is None or row[0]:
        # Snapshots are taken differently there: entries would be lost.
        raise LogRefusedError(
            "durable subscriptions can't be read from a hot standby. Connect to the primary; or "
            "give all hosts, separated by commas, and target_session_attrs=read-write"
        )
    check(connection)


def has_foreign_entries(connection: psycopg.Connection[Any]) -> bool:
    """Return whether entries were replicated that nobody would read yet, so that they need repair.

    A physical copy that has followed the original by logical replication has such entries, though
    its positions may be its own.

    Args:
        connection: A connection of `Parameters`, not in a transaction.
    """
    row = connection.execute(_HAS_FOREIGN).fetchone()
    return row is not None and bool(row[0])


def reanchor(connection: psycopg.Connection[Any]) -> bool:
    """Repair positions that were copied from another server; return whether that is done.

    What was undelivered at such a position is moved to the failed entries, and delivered from
    there. A false alarm does no harm.

    Args:
        connection: A connection of `Parameters`, not in a transaction.

    Returns:
        False if it has to be tried again later, because another session uses a subscription or
        does the same.

    Raises:
        psycopg.errors.ObjectNotInPrerequisiteState: The restore has not finished.
    """
    try:
        with connection.transaction():
            connection.execute(_REPEATABLE)
            row = connection.execute(_REANCHOR).fetchone()
    except _LATER as exc:
        logger.debug(
            "durable subscriptions can't be re-anchored yet: %s",
            exc,
            extra=about("reanchoring_later", error=type(exc).__name__),
        )
        return False
    assert row is not None
    logger.warning(
        "database %r was copied from another server: its durable subscriptions go on from here, "
        "and %d entries that were undelivered there are delivered again",
        connection.info.dbname,
        row[0],
        extra=about("reanchored", count=row[0]),
    )
    return True
