"""Put messages into an outbox, a channel of the log that a relay forwards to a queue."""

from collections.abc import Hashable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import monotonic

from pgnotifier._connection.session import encoding_of
from pgnotifier._log import sessions
from pgnotifier._log.composing import Composer, Draft, chunk
from pgnotifier._log.outboxes import aopen_outbox, open_outbox
from pgnotifier._log.publishing import ainsert_in, insert_in
from pgnotifier._log.sessions import Given, GivenForAsyncio

TRUSTED = 1.0
"""Seconds for which a subscription that was seen is assumed to exist."""
MOST_KEPT = 1000
"""For how many connections to remember that it was seen."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """A channel of the log, and the subscription of the relay that reads it.

    The subscription has to exist before the first entry does: otherwise the entry's space could be
    reclaimed before a relay has read it. So it is made in the transaction of the first entry.

    It may be gone later, if somebody has made a new database of that name or has deleted the
    position. So it is looked for again on each new connection, and after a second. Doing so for
    each entry would take half as long as inserting the entry.

    Attributes:
        channel: The channel's name.
        subscription: The subscription's name.
    """

    channel: str
    subscription: str
    # When the subscription was seen in databases, made by a transaction that has committed.
    _opened: dict[Hashable, float] = field(default_factory=dict, compare=False, repr=False)

    def insert(self, connection: Given, drafts: Iterable[Draft]) -> None:
        """Insert entries in the transaction of the caller, in order.

        Raises:
            PgNotifierError: As for `publish`.
        """
        session = sessions.find_session(connection)
        database = session.database
        composer = Composer(self.channel, None, session.encoding, None)
        checked = composer.check_all(drafts)
        is_open = self._is_open(database)
        with nullcontext() if is_open and _is_one(checked) else session.transaction():
            if not is_open:
                self._note(database, open_outbox(session, self.subscription, self.channel))
            insert_in(session, composer, checked)

    async def ainsert(self, connection: GivenForAsyncio, drafts: Iterable[Draft]) -> None:
        """Insert entries in the transaction of a connection for asyncio, in order.

        Raises:
            PgNotifierError: As for `apublish`.
        """
        if sessions.is_async_alchemy(connection):
            await sessions.unscoped(connection).run_sync(self.insert, drafts)
            return
        driver = sessions.find_async_connection(connection)
        database = sessions.find_database(driver)
        composer = Composer(self.channel, None, encoding_of(driver), None)
        checked = composer.check_all(drafts)
        is_open = self._is_open(database)
        alone = (is_open and _is_one(checked)) or not sessions.has_no_transaction(driver)
        async with nullcontext() if alone else driver.transaction():
            if not is_open:
                is_there = await aopen_outbox(driver, self.subscription, self.channel)
                self._note(database, is_there)
            await ainsert_in(driver, composer, checked)

    def _is_open(self, database: Hashable) -> bool:
        return monotonic() - self._opened.get(database, float("-inf")) < TRUSTED

    def _note(self, database: Hashable, is_there: bool) -> None:
        if is_there and database is not None:
            if len(self._opened) >= MOST_KEPT:
                self._opened.clear()
            self._opened[database] = monotonic()


def _is_one(drafts: list[Draft]) -> bool:
    """Return whether there is just one statement to execute."""
    return len([*chunk(iter(drafts))]) <= 1
