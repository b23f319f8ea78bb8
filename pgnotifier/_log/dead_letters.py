"""Keep entries that have failed: retry them beside the flow, and set them aside as dead letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import rows

_FAIL = """
SELECT pgnotifier.fail(%s, %s, %s, %s, %s, %s, %s, %s, %s::pg_catalog.float8, %s)
"""
_DUE = "SELECT n, id, at, key, payload, attempts FROM pgnotifier.due(%s, %s)"
_FAIL_AGAIN = "SELECT pgnotifier.fail_again(%s, %s, %s, %s::pg_catalog.float8, %s)"
_RETRY = "SELECT pgnotifier.retry(%s::pg_catalog.int8[])"
_DROP = "SELECT pgnotifier.drop_failed(%s::pg_catalog.int8[])"
_FIND = """
SELECT n, name, f.channel, id, f.at, key, payload, attempts, retry_at, error, traceback, failed_at,
    dead
FROM pgnotifier.failed AS f JOIN pgnotifier.subscription AS u
ON f.sub OPERATOR(pg_catalog.=) u.sub
WHERE (%(all)s OR dead)
AND (%(n)s::pg_catalog.int8 IS NULL OR n OPERATOR(pg_catalog.=) %(n)s)
AND (%(name)s::pg_catalog.text IS NULL OR name OPERATOR(pg_catalog.=) %(name)s)
AND (%(channel)s::pg_catalog.text IS NULL OR f.channel OPERATOR(pg_catalog.=) %(channel)s)
ORDER BY n LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an entry could not be delivered, and what becomes of it.

    Attributes:
        error: The exception in one line.
        traceback: Its traceback, if there is one.
        retry_in: Seconds until it is tried again.
        is_dead: Whether it isn't tried again.
    """

    error: str
    traceback: str | None = None
    retry_in: float = 1.0
    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A failed entry that is to be tried again.

    Attributes:
        n: Its number among the failed ones.
        id: Its number in the log.
        published_at: When it was published.
        key: Its key.
        payload: The raw payload.
        attempts: How many were made.
    """

    n: int
    id: int
    published_at: datetime
    key: str | None
    payload: str
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A failed entry, as the command line shows it. `dead` says whether it is retried by itself."""

    n: int
    name: str
    channel: str
    id: int
    at: datetime
    key: str | None
    payload: str
    attempts: int
    retry_at: datetime
    error: str | None
    traceback: str | None
    failed_at: datetime
    dead: bool


def record_failure(
    connection: psycopg.Connection[Any],
    sub: int,
    channel: str,
    entry: Any,
    failure: Failure,
) -> None:
    """Keep an entry that has failed once, in the transaction that moves the position.

    Args:
        connection: The connection of the reading.
        sub: The number of the subscription.
        channel: Its channel.
        entry: What has failed: it has `id`, `published_at`, `key` and `payload`.
        failure: Why, and what becomes of it.
    """
    arguments = (sub, entry.id, entry.published_at, channel, entry.key, entry.payload)
    connection.execute(_FAIL, (*arguments, *_texts(failure), failure.retry_in, failure.is_dead))


def find_due(connection: psycopg.Connection[Any], sub: int, limit: int) -> Sequence[Due]:
    """Return failed entries of a subscription that are to be tried again now.

    They are locked until the transaction ends; those that another session has locked are left out.
    """
    return [Due(*row) for row in connection.execute(_DUE, (sub, limit))]


def record_another(connection: psycopg.Connection[Any], n: int, failure: Failure) -> None:
    """Note that an entry has failed again, in the transaction of `find_due`."""
    connection.execute(_FAIL_AGAIN, (n, *_texts(failure), failure.retry_in, failure.is_dead))


def find_letters(
    connection: psycopg.Connection[Any],
    *,
    n: int | None = None,
    name: str | None = None,
    channel: str | None = None,
    everything: bool = False,
    limit: int = 1000,
) -> Sequence[DeadLetter]:
    """Return dead letters, the oldest first.

    Args:
        connection: Any connection of a listener.
        n: Only this one.
        name: Only those of this subscription.
        channel: Only those of this channel.
        everything: Also return those that are still being retried.
        limit: How many to return at most.
    """
    wanted = {"n": n, "name": name, "channel": channel, "all": everything, "limit": limit}
    with connection.cursor(row_factory=rows.class_row(DeadLetter)) as cursor:
        return cursor.execute(_FIND, wanted).fetchall()


def retry_letters(connection: psycopg.Connection[Any], numbers: Sequence[int]) -> int:
    """Have failed entries retried at once, with all their attempts; return how many exist."""
    return _count(connection, _RETRY, numbers)


def drop_letters(connection: psycopg.Connection[Any], numbers: Sequence[int]) -> int:
    """Delete failed entries, because they are done or given up; return how many existed."""
    return _count(connection, _DROP, numbers)


def _count(connection: psycopg.Connection[Any], query: str, numbers: Sequence[int]) -> int:
    row = connection.execute(query.encode(), (list(numbers),)).fetchone()
    assert row is not None
    return int(row[0])


def _texts(failure: Failure) -> tuple[str, str | None]:
    """Return the error and the traceback without null characters, which PostgreSQL has not."""
    traceback = failure.traceback
    return failure.error.replace("\0", ""), traceback and traceback.replace("\0", "")
