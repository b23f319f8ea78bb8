"""Keep log entries that have failed: retry them beside the new ones, or make them dead letters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import rows

from pgnotifier._connection.encoding import Encoding
from pgnotifier._connection.session import encoding_of

_FAIL = """
SELECT pgnotifier.fail(%s, %s, %s, %s, %s, %s, %s, %s, %s::pg_catalog.float8, %s)
"""
_DUE = "SELECT n, id, at, key, payload, attempts FROM pgnotifier.due(%s, %s)"
_FAIL_AGAIN = "SELECT pgnotifier.fail_again(%s, %s, %s, %s::pg_catalog.float8, %s)"
_RETRY = "SELECT pgnotifier.retry(%s::pg_catalog.int8[])"
_DROP = "SELECT pgnotifier.drop_failed(%s::pg_catalog.int8[])"
_FIND = """
SELECT n, name, f.channel, id, f.at,
    pg_catalog.convert_to(key, pg_catalog.getdatabaseencoding()) AS key,
    pg_catalog.convert_to(payload, pg_catalog.getdatabaseencoding()) AS payload,
    attempts, retry_at, error, traceback, failed_at, dead
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
    """Why an entry could not be delivered, and what happens to it next.

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
        key: Its key, in the database's encoding.
        payload: The raw payload, in the database's encoding.
        attempts: How many were made.
    """

    n: int
    id: int
    published_at: datetime
    key: bytes | None
    payload: bytes
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A failed entry, as commands show it. Unless it is `dead`, it is retried automatically.

    In the key and the payload, U+FFFD stands for what has no equivalent in UTF-8.
    """

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
        connection: The connection that reads the log.
        sub: The number of the subscription.
        channel: Its channel.
        entry: What has failed: it has `id`, `published_at`, `key` and `payload`, as it was read.
        failure: Why, and what happens to it next.
    """
    arguments = (sub, entry.id, entry.published_at, channel, entry.key, entry.payload)
    connection.execute(
        _FAIL, (*arguments, *_texts(connection, failure), failure.retry_in, failure.is_dead)
    )


def find_due(connection: psycopg.Connection[Any], sub: int, limit: int) -> Sequence[Due]:
    """Return failed entries of a subscription that are to be tried again now.

    They are locked until the transaction ends; those that another session has locked are left out.
    """
    return [Due(*row) for row in connection.execute(_DUE, (sub, limit))]


def record_another(connection: psycopg.Connection[Any], n: int, failure: Failure) -> None:
    """Note that an entry has failed again, in the transaction of `find_due`."""
    connection.execute(
        _FAIL_AGAIN, (n, *_texts(connection, failure), failure.retry_in, failure.is_dead)
    )


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
        found = cursor.execute(_FIND, wanted).fetchall()
    encoding = encoding_of(connection)
    return [
        replace(one, key=_read(encoding, one.key), payload=_read(encoding, one.payload))
        for one in found
    ]


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


def _texts(connection: psycopg.Connection[Any], failure: Failure) -> tuple[str, str | None]:
    """Return the error and the traceback as texts that the database can keep.

    PostgreSQL can't store null characters, and encodings other than UTF-8 lack others as well.
    """
    codec = "utf-8" if encoding_of(connection).is_utf8 else "ascii"

    def fit(text: str) -> str:
        return text.replace("\0", "").encode(codec, "backslashreplace").decode(codec)

    return fit(failure.error), failure.traceback and fit(failure.traceback)


def _read(encoding: Encoding, data: Any) -> Any:
    return data and encoding.to_utf8(data).decode("utf-8", "replace")
