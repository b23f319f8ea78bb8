"""Put messages into the log that a relay will forward: entries whose payloads are texts already."""

from collections.abc import Hashable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgnotifier._connection.session import encoding_of
from pgnotifier._log import sessions
from pgnotifier._log.composing import Composer, Draft, chunk
from pgnotifier._log.publishing import Query, ainsert_in, aquery_in, insert_in, query_in
from pgnotifier._log.refusals import explained
from pgnotifier._log.sessions import Given, GivenForAsyncio, Rows, Session

# It returns whether the subscription is there and committed.
_OPEN = "SELECT pgnotifier.open_outbox(CAST(%s AS pg_catalog.text), CAST(%s AS pg_catalog.text))"


@dataclass(frozen=True, slots=True)
class Outbox:
    """A channel of the log, and the subscription of the relay that reads it.

    The subscription has to exist before the first entry does: otherwise the log could give its
    space back before a relay has read it. So it is made in the transaction of the first entry.

    Attributes:
        channel: The channel's name.
        subscription: The subscription's name.
    """

    channel: str
    subscription: str
    # The databases in which the subscription was seen, made by a transaction that has committed.
    # Threads only add to it.
    _opened: set[Hashable] = field(default_factory=set, compare=False, repr=False)

    def insert(self, connection: Given, drafts: Iterable[Draft]) -> None:
        """Insert entries in the transaction of the caller, in order.

        Raises:
            PgNotifierError: As for `publish`.
        """
        session = sessions.find_session(connection)
        database = session.database
        composer = Composer(self.channel, None, session.encoding, None, is_outbox=True)
        checked = composer.check_all(drafts)
        with nullcontext() if self._is_one(checked, database) else session.transaction():
            if database not in self._opened:
                self._note(database, query_in(session, composer, self._opening))
            insert_in(session, composer, checked)

    async def ainsert(self, connection: GivenForAsyncio, drafts: Iterable[Draft]) -> None:
        """Insert entries in the transaction of a connection for asyncio, in order.

        Raises:
            PgNotifierError: As for `apublish`.
        """
        if sessions.is_async_alchemy(connection):
            given: Any = connection
            await given.run_sync(self.insert, drafts)
            return
        driver = sessions.find_async_connection(connection)
        database = sessions.find_database(driver)
        composer = Composer(self.channel, None, encoding_of(driver), None, is_outbox=True)
        checked = composer.check_all(drafts)
        alone = self._is_one(checked, database) or not sessions.has_no_transaction(driver)
        async with nullcontext() if alone else driver.transaction():
            if database not in self._opened:
                self._note(database, await aquery_in(driver, composer, self._opening))
            await ainsert_in(driver, composer, checked)

    @property
    def _opening(self) -> Query:
        return _OPEN, (self.subscription, self.channel)

    def _is_one(self, drafts: list[Draft], database: Hashable) -> bool:
        """Return whether there is just one statement to execute."""
        return database in self._opened and len([*chunk(iter(drafts))]) <= 1

    def _note(self, database: Hashable, rows: Rows) -> None:
        if database is not None and rows[0][0]:
            self._opened.add(database)


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
    """Do the same as `open_outbox` on psycopg's connection for asyncio."""
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        with explained(channel):
            await cursor.execute(sessions.for_psycopg(_OPEN), (name, channel))
            row = await cursor.fetchone()
    return row is not None and bool(row[0])
