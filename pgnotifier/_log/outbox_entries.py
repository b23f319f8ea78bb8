"""Put messages into the log that a relay will forward: their payloads are texts already."""

from collections.abc import Hashable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from pgnotifier._connection.session import encoding_of
from pgnotifier._log import sessions
from pgnotifier._log.composing import Composer, Draft, chunk
from pgnotifier._log.outboxes import aopen_outbox, open_outbox
from pgnotifier._log.publishing import ainsert_in, insert_in
from pgnotifier._log.sessions import Given, GivenForAsyncio


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
                self._note(database, open_outbox(session, self.subscription, self.channel))
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
                is_there = await aopen_outbox(driver, self.subscription, self.channel)
                self._note(database, is_there)
            await ainsert_in(driver, composer, checked)

    def _is_one(self, drafts: list[Draft], database: Hashable) -> bool:
        """Return whether there is just one statement to execute."""
        return database in self._opened and len([*chunk(iter(drafts))]) <= 1

    def _note(self, database: Hashable, is_there: bool) -> None:
        if is_there and database is not None:
            self._opened.add(database)
