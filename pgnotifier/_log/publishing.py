"""Publish entries to the durable log, in the transaction of the caller.

    composing -> the statements, here -> sessions
    checks       generators, which       each kind of
    and texts    yield what to execute   connection

The statements insert into the log directly: a function of the schema would take an eighth longer.
Those that notify volatile listeners as well call one.
"""

from collections.abc import Generator, Iterable, Sequence
from itertools import chain
from typing import Any, Literal, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pgnotifier._connection.encoding import Encoding
from pgnotifier._connection.session import encoding_of
from pgnotifier._log import sessions
from pgnotifier._log.by_psycopg import ARRAY, Query, aexecute_together, for_psycopg
from pgnotifier._log.composing import Composer, Draft, Key, bundle, chunk, take_some
from pgnotifier._log.refusals import explained
from pgnotifier._log.sessions import Given, GivenForAsyncio, Rows, Session
from pgnotifier._payload.plain import Encoder
from pgnotifier._registry.checks import check_unreserved
from pgnotifier._runtime.timing import timed

Order = Literal["key"] | None
"""What else entries are ordered by, besides the order of transactions."""

T = TypeVar("T")
Steps = Generator[Query, Rows, T]
"""Yields statements to execute, one by one, is sent the rows of each, and returns a result."""

# Sent as texts: PostgreSQL checks a parameter with a domain as its type by a slower function.
_INSERT = """
INSERT INTO pgnotifier.log (channel, key, payload) VALUES (
    CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text)
) RETURNING id
"""
# The key is locked before the id is drawn: PostgreSQL evaluates FROM before the new row's defaults.
_INSERT_LOCKED = """
INSERT INTO pgnotifier.log (channel, key, payload)
SELECT CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text)
FROM pgnotifier.lock_keys(CAST(%s AS pg_catalog.text), ARRAY[CAST(%s AS pg_catalog.text)])
RETURNING id
"""
# COPY would be a quarter faster for many thousands of entries, and no faster for a thousand. But
# it returns no ids, and can't be used in a pipeline.
_INSERT_MANY = f"""
INSERT INTO pgnotifier.log (channel, key, payload)
SELECT CAST(%s AS pg_catalog.text), given.key, given.payload
FROM ROWS FROM (pg_catalog.unnest({ARRAY}), pg_catalog.unnest({ARRAY})) AS given (key, payload)
RETURNING id
"""  # noqa: S608 - a constant
# Without its casts, PostgreSQL would look for a function of the drivers' types.
_NOTIFYING = """
SELECT pgnotifier.publish(CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text),
    CAST(%s AS pg_catalog.text), true)
"""
_NOTIFYING_LOCKED = f"""
{_NOTIFYING}
FROM pgnotifier.lock_keys(CAST(%s AS pg_catalog.text), ARRAY[CAST(%s AS pg_catalog.text)])
"""
_NOTIFYING_MANY = f"""
SELECT pgnotifier.publish(CAST(%s AS pg_catalog.text), given.payload, given.key, true)
FROM ROWS FROM (pg_catalog.unnest({ARRAY}), pg_catalog.unnest({ARRAY})) AS given (key, payload)
"""  # noqa: S608 - a constant
_LOCK = f"SELECT pgnotifier.lock_keys(CAST(%s AS pg_catalog.text), {ARRAY})"


def publish(
    connection: Given,
    channel: str,
    payload: Any = "",
    key: str | None = None,
    *,
    order: Order = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> int:
    """Publish an entry in the connection's transaction. It is delivered once that has committed.

    Each durable subscription on the channel gets the entry at least once. If the transaction is
    rolled back, also to a savepoint, nobody gets it. In autocommit it is published at once.

    Args:
        connection: A connection of psycopg, psycopg2 or Django; a Connection or Session of
            SQLAlchemy; or a cursor of any driver that takes arguments as `%s`.
        channel: The name of the channel.
        payload: Any value that `encode` takes, of up to 64 MiB.
        key: What the entry is about, up to 1 kB: subscriptions get it with the entry.
        order: "key" makes transactions that publish with the same key to this channel wait for
            each other, so that the entries of the key are delivered in the order of the calls. Two
            transactions that publish with several keys may then wait for each other: one of them
            fails with a deadlock. `publish_many` avoids that.
        encoder: As for `encode`.
        notify: Whether volatile listeners get it, too, as a notification of the channel. It costs
            what a NOTIFY does: the COMMIT waits for those before it, and the transaction can't be
            prepared for two-phase commit. A payload over 7,999 bytes goes to pgnotifier's listeners
            only, which read it from the log.

    Returns:
        The id of the entry.

    Raises:
        PayloadEncodingError: The value can't be a payload, or the database's encoding lacks one of
            its characters.
        PayloadTooLargeError: The payload has over 64 MiB.
        EntryKeyError: The key is too long, or can't be a text in PostgreSQL; or order="key" has
            no key.
        ChannelNameError: PostgreSQL doesn't allow the name of the channel; or it is an outbox.
        LogNotInstalledError: The database has no log.
        LogRefusedError: The role has no right to publish, or the transaction is read-only.
        ArgumentTypeError: The connection is none of these; or another argument has a wrong type.
    """
    session = sessions.find_session(connection)
    return publish_in(session, channel, payload, key, order=order, encoder=encoder, notify=notify)


def publish_many(
    connection: Given,
    channel: str,
    payloads: Iterable[Any],
    key: Key = None,
    *,
    order: Order = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> list[int]:
    """Publish an entry for each payload, in order, in the connection's transaction.

    It does what `publish` does for each of them, but sends a thousand in one statement. In
    autocommit, either all of them are published or none.

    Args:
        connection: As for `publish`.
        channel: The name of the channel.
        payloads: Any iterable. A thousand payloads are kept in memory at a time; with order="key",
            all of them are.
        key: The key of all entries; or a function that is called with each payload and returns its
            key.
        order: "key" as for `publish`. It locks all keys before it publishes anything, and in the
            same order in each transaction. Each key takes a place in the server's table of locks:
            https://www.postgresql.org/docs/current/runtime-config-locks.html.
        encoder: As for `encode`.
        notify: As for `publish`. Of equal payloads of up to 7,999 bytes in a transaction, volatile
            listeners get one.

    Returns:
        The ids of the entries, in order.

    Raises:
        PgNotifierError: As for `publish`.
    """
    session = sessions.find_session(connection)
    return publish_many_in(
        session, channel, payloads, key, order=order, encoder=encoder, notify=notify
    )


async def apublish(
    connection: GivenForAsyncio,
    channel: str,
    payload: Any = "",
    key: str | None = None,
    *,
    order: Order = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> int:
    """Publish an entry in the transaction of an async connection: see `publish`.

    Args:
        connection: An AsyncConnection or AsyncCursor of psycopg; an AsyncConnection,
            AsyncSession or async_scoped_session of SQLAlchemy.
        channel: As for `publish`.
        payload: As for `publish`.
        key: As for `publish`.
        order: As for `publish`.
        encoder: As for `publish`.
        notify: As for `publish`.
    """
    if sessions.is_async_alchemy(connection):
        given = sessions.unscoped(connection)
        ours: int = await given.run_sync(
            publish, channel, payload, key, order=order, encoder=encoder, notify=notify
        )
        return ours
    driver = sessions.find_async_connection(connection)
    composer = _compose_for(channel, encoder, encoding_of(driver), order)
    return await _execute_async(driver, channel, _publish(composer, payload, key, notify))


async def apublish_many(
    connection: GivenForAsyncio,
    channel: str,
    payloads: Iterable[Any],
    key: Key = None,
    *,
    order: Order = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> list[int]:
    """Publish an entry for each payload on an async connection: see `publish_many`."""
    if sessions.is_async_alchemy(connection):
        given = sessions.unscoped(connection)
        ours: list[int] = await given.run_sync(
            publish_many, channel, payloads, key, order=order, encoder=encoder, notify=notify
        )
        return ours
    driver = sessions.find_async_connection(connection)
    composer = _compose_for(channel, encoder, encoding_of(driver), order)
    drafts = composer.compose_all(payloads, key)
    first = take_some(drafts)
    steps = _publish_many(composer, chain(first, drafts), notify)
    if _is_one_statement(composer, first) or not sessions.has_no_transaction(driver):
        return await _execute_async(driver, channel, steps)
    async with driver.transaction():
        return await _execute_async(driver, channel, steps)


def publish_in(
    session: Session,
    channel: str,
    payload: Any,
    key: str | None,
    *,
    order: Order,
    encoder: Encoder | None,
    notify: bool,
) -> int:
    """Publish an entry in a session."""
    composer = _compose_for(channel, encoder, session.encoding, order)
    return _execute(session, channel, _publish(composer, payload, key, notify))


def publish_many_in(
    session: Session,
    channel: str,
    payloads: Iterable[Any],
    key: Key,
    *,
    order: Order,
    encoder: Encoder | None,
    notify: bool,
) -> list[int]:
    """Publish an entry for each payload in a session."""
    composer = _compose_for(channel, encoder, session.encoding, order)
    drafts = composer.compose_all(payloads, key)
    first = take_some(drafts)
    steps = _publish_many(composer, chain(first, drafts), notify, session.array)
    if _is_one_statement(composer, first):
        return _execute(session, channel, steps)
    with session.transaction():
        return _execute(session, channel, steps)


def _compose_for(
    channel: str, encoder: Encoder | None, encoding: Encoding | None, order: object
) -> Composer:
    """Return the composer for a channel, which must not be an outbox."""
    composer = Composer(channel, encoder, encoding, order)
    check_unreserved(composer.channel)
    return composer


def _is_one_statement(composer: Composer, first: list[Draft]) -> bool:
    return not composer.is_ordered and len([*chunk(iter(first))]) <= 1


# --- what to execute ---


def _publish(composer: Composer, payload: Any, key: str | None, notify: bool) -> Steps[int]:
    checked, text = composer.compose(payload, key)
    channel = composer.channel
    lock = (channel, checked) if composer.is_ordered else ()
    if notify:
        statement = _NOTIFYING_LOCKED if lock else _NOTIFYING
        rows = yield statement, (channel, text, checked, *lock)
    else:
        rows = yield _INSERT_LOCKED if lock else _INSERT, (channel, checked, text, *lock)
    return int(rows[0][0])


def _publish_many(
    composer: Composer, drafts: Iterable[Draft], notify: bool, array: Any = list
) -> Steps[list[int]]:
    if composer.is_ordered:
        drafts = list(drafts)
        if drafts:
            yield _LOCK, (composer.channel, array(list(dict.fromkeys(key for key, _ in drafts))))
    found: list[int] = []
    for some in chunk(iter(drafts)):
        keys, texts = zip(*some, strict=True)
        statement = _NOTIFYING_MANY if notify else _INSERT_MANY
        rows = yield statement, (composer.channel, array(keys), array(texts))
        found += [row[0] for row in rows]
    return found


# --- executing it ---


def _execute(session: Session, channel: str, steps: Steps[T]) -> T:
    with timed("durable"):
        return _step(session, channel, steps)


def _step(session: Session, channel: str, steps: Steps[T]) -> T:
    try:
        query = next(steps)
        while True:
            with explained(channel):
                rows = session.execute(*query)
            query = steps.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


async def _execute_async(
    connection: psycopg.AsyncConnection[Any], channel: str, steps: Steps[T]
) -> T:
    with timed("durable"):
        return await _step_async(connection, channel, steps)


async def _step_async(connection: psycopg.AsyncConnection[Any], channel: str, steps: Steps[T]) -> T:
    try:
        statement, arguments = next(steps)
        while True:
            # A cursor of our own, as in `sessions`.
            async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
                with explained(channel):
                    await cursor.execute(for_psycopg(statement), arguments)
                    rows = await cursor.fetchall()
            statement, arguments = steps.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


# --- entries that are made already ---


def insert_in(session: Session, composer: Composer, drafts: list[Draft]) -> None:
    """Insert entries, in order, in a session."""
    with timed("durable"), explained(composer.channel):
        for chunks in bundle(chunk(iter(drafts))):
            session.execute_all(_insert(composer.channel, some, session.array) for some in chunks)


async def ainsert_in(
    driver: psycopg.AsyncConnection[Any], composer: Composer, drafts: list[Draft]
) -> None:
    """Insert entries, in order, on an async connection of psycopg."""
    with timed("durable"), explained(composer.channel):
        for chunks in bundle(chunk(iter(drafts))):
            queries = [_insert(composer.channel, some, list) for some in chunks]
            await aexecute_together(driver, queries)


def _insert(channel: str, drafts: Sequence[Draft], array: Any) -> Query:
    if len(drafts) == 1:
        return _INSERT, (channel, *drafts[0])
    keys, texts = zip(*drafts, strict=True)
    return _INSERT_MANY, (channel, array(keys), array(texts))
