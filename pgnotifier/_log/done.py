"""Idempotency: record ids of work in the transaction that does it, and reclaim their space."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from pgnotifier._log.refusals import find_state
from pgnotifier._log.sessions import Session
from pgnotifier.errors import (
    AlreadyDoneError,
    ArgumentTypeError,
    ConfigurationError,
    LogNotInstalledError,
    LogRefusedError,
    PgNotifierError,
    in_one_line,
)

ONCE = "SELECT pgnotifier.once(CAST(%s AS pg_catalog.text))"
RECLAIM_DONE = "SELECT freed, blocked, keep FROM pgnotifier.reclaim_done()"
KEEP_DONE = "SELECT pgnotifier.keep_done(%s::pg_catalog.interval)"

MAX_ID_BYTES = 1024
"""The longest id."""


class DoneState(NamedTuple):
    """What reclaiming space has found.

    Attributes:
        freed: How many slots were truncated.
        blocked: How many could be, but are in use.
        keep: How long ids are kept at least.
    """

    freed: int
    blocked: int
    keep: timedelta


def check_id(id: object) -> str:
    """Return an id of what is done once.

    Raises:
        ArgumentTypeError: It isn't a str.
        ConfigurationError: It is empty, too long, or has characters that PostgreSQL refuses.
    """
    if not isinstance(id, str):
        raise ArgumentTypeError(f"an id of what is done once must be a str, not {id!r:.80}")
    if not id or "\0" in id or len(id.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise ConfigurationError(
            f"an id of what is done once has 1 to {MAX_ID_BYTES:,} bytes, and no zero byte: "
            f"{id!r:.80}"
        )
    return id


def check_first(is_first: object, id: str) -> None:
    """Raise an error if something has been done already.

    Raises:
        AlreadyDoneError: It has.
    """
    if not is_first:
        raise AlreadyDoneError(f"{id!r} has been done already")


def claim(session: Session, id: str) -> None:
    """Note that something is done, in the session's transaction.

    If another transaction is doing the same, this waits until it has ended.

    Raises:
        AlreadyDoneError: It has been done already.
        LogNotInstalledError: The database has no durable log, or an old one.
        LogRefusedError: The role has no right to, or the transaction is read-only.
        ConfigurationError: There is no transaction, because each statement is committed.
    """
    if session.commits_each:
        raise ConfigurationError(
            "nothing can be done once with isolation_level='AUTOCOMMIT': use an engine that has "
            "transactions"
        )
    with explained():
        rows = session.execute(ONCE, (id,))
    check_first(rows[0][0], id)


def reclaim_done(session: Session) -> DoneState:
    """Truncate slots that are old enough. It never waits, and needs a transaction of its own."""
    with explained():
        rows = session.execute(RECLAIM_DONE, ())
    return DoneState(*rows[0])


def keep_done(connection: psycopg.Connection[Any], keep: timedelta) -> bool:
    """Set how long ids are kept at least; return whether that is a change.

    Args:
        connection: A connection of the role that owns the log.
        keep: Longer than the time in which a task can be redelivered after it was done. It is 7
            days at first.

    Raises:
        ArgumentTypeError: It isn't a timedelta.
        ConfigurationError: It isn't positive.
        LogNotInstalledError: The database has no durable log, or an old one.
        LogRefusedError: The log belongs to another role.
    """
    if not isinstance(keep, timedelta):
        raise ArgumentTypeError(f"keep must be a timedelta, not {keep!r:.80}")
    if keep <= timedelta():
        raise ConfigurationError(f"keep must be positive, not {keep}")
    with explained():
        row = connection.execute(KEEP_DONE, (f"{keep.total_seconds():f} s",)).fetchone()
    return row is not None and bool(row[0])


@contextmanager
def explained() -> Iterator[None]:
    """Replace errors of drivers by our own, where there is an explanation."""
    try:
        yield
    except PgNotifierError:
        raise
    except Exception as exc:
        explain = _EXPLAINED.get(find_state(exc) or "")
        if explain is None:
            raise
        raise explain(in_one_line(getattr(exc, "orig", exc))) from exc


def _not_installed(reason: str) -> PgNotifierError:
    return LogNotInstalledError(
        "can't note what is done: this database has no durable log, or an old one. "
        f"Run: pgnotifier install ({reason})"
    )


def _no_right(reason: str) -> PgNotifierError:
    return LogRefusedError(
        "can't note what is done: the role has no right to. "
        f"Run: pgnotifier install --grant-worker ROLE ({reason})"
    )


def _read_only(reason: str) -> PgNotifierError:
    return LogRefusedError(
        "can't note what is done: the transaction is read-only, or the server is a standby "
        f"({reason})"
    )


_EXPLAINED: Mapping[str, Callable[[str], PgNotifierError]] = {
    "3F000": _not_installed,  # invalid_schema_name
    "42P01": _not_installed,  # undefined_table
    "42883": _not_installed,  # undefined_function
    "42501": _no_right,  # insufficient_privilege
    "25006": _read_only,  # read_only_sql_transaction
}
