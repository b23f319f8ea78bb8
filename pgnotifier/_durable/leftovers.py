"""End the session that a lost connection has left behind, because it may hold subscriptions.

If a network drops everything, the client gives up the connection. The server doesn't notice that
until its keepalives go unanswered, or not at all: something in between may answer them. Until then
the session keeps its locks, and nobody can advance the subscriptions that it holds.
"""

import contextlib
import logging
from typing import Any, NamedTuple

import psycopg

from pgnotifier._runtime.log_records import about

logger = logging.getLogger("pgnotifier.durable")

_IDENTITY = """
SELECT pid, EXTRACT(epoch FROM backend_start)::pg_catalog.text FROM pg_catalog.pg_stat_activity
WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
"""
_END = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid OPERATOR(pg_catalog.=) %s
AND EXTRACT(epoch FROM backend_start)::pg_catalog.text OPERATOR(pg_catalog.=) %s
"""


class Identity(NamedTuple):
    """What distinguishes a session from all others of all servers.

    Attributes:
        pid: Its process.
        begun: When that began, as a text.
    """

    pid: int
    begun: str


def identify(connection: psycopg.Connection[Any]) -> Identity | None:
    """Return the identity of a session; None if it is a pooler's, which may give it to others."""
    row = connection.execute(_IDENTITY).fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        return None
    return Identity(*row)


def end_leftover(connection: psycopg.Connection[Any], left: Identity) -> None:
    """End an earlier session of the same role, if it is still there."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        if connection.execute(_END, left).fetchone() is not None:
            logger.info(
                "ended session %d of the database, which a lost connection had left behind",
                left.pid,
                extra=about("leftover_ended", pid=left.pid),
            )
