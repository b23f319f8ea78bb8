"""Translate psycopg's errors that end the reading of the log into pgnotifier's own."""

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier.errors import (
    ConnectionFailedError,
    LogNotInstalledError,
    LogRefusedError,
    PgNotifierError,
    in_one_line,
)

POOLED = (
    "durable subscriptions can't be read through a pooler in transaction or statement mode, "
    "because they need a session of their own. Connect to PostgreSQL itself, or to a pool in "
    "session mode (PgBouncer: pool_mode=session for this database)"
)
"""Why a session can't be used that a pooler also gives to others."""


def translate(exc: psycopg.Error, parameters: Parameters) -> PgNotifierError:
    """Return pgnotifier's error for one of psycopg's."""
    reason = in_one_line(exc)
    made: PgNotifierError
    match exc:
        case (
            psycopg.errors.InvalidSchemaName()
            | psycopg.errors.UndefinedTable()
            | psycopg.errors.UndefinedFunction()
            | psycopg.errors.UndefinedColumn()
        ):
            made = LogNotInstalledError(
                f"the durable log isn't installed, or is too old ({parameters!r}): {reason}. "
                "Run: pgnotifier install"
            )
        case psycopg.errors.InsufficientPrivilege():
            made = LogRefusedError(
                f"this role may not read the durable log ({parameters!r}): {reason}. Its owner "
                "can allow that: pgnotifier install --grant-listener ROLE"
            )
        case psycopg.errors.InvalidColumnReference():  # of ON CONFLICT
            made = ConnectionFailedError(
                f"the restore of the durable log has not finished, or has failed ({parameters!r}): "
                f"{reason}. Wait for it, or restore the schema pgnotifier again"
            )
        case _:
            made = ConnectionFailedError(f"can't read the durable log ({parameters!r}): {reason}")
    made.__cause__ = exc
    return made
