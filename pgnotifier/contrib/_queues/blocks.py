"""`with outbox(connection):`, a block that puts the tasks it publishes into a transaction."""

import logging
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

from pgnotifier._log.outbox_entries import Outbox
from pgnotifier._log.outbox_queries import PREFIX
from pgnotifier._runtime.log_records import about, count
from pgnotifier.contrib._queues.connections import (
    AnyConnection,
    ainsert,
    check_sync,
    find_django,
    is_of_django,
)
from pgnotifier.contrib._queues.recordings import Recording, record
from pgnotifier.contrib._queues.watching import BlockWatch
from pgnotifier.errors import ConfigurationError

logger = logging.getLogger("pgnotifier.log")


class Block(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """The block of `with outbox(connection):` or `async with outbox(connection):`. Use it once."""

    def __init__(self, log: Outbox, owner: Any, connection: AnyConnection) -> None:
        self._log = log
        self._owner = owner
        self._connection: Any = connection
        self._recording: Recording | None = None
        self._watch: BlockWatch | None = None
        self._stack = ExitStack()

    def __enter__(self) -> None:
        """Begin to take messages."""
        instead = "write `async with outbox(...)`, or await aenqueue()"
        self._connection = check_sync(self._connection, instead)
        self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Insert the messages, unless the block has raised."""
        if drafts := self._end(kind):
            self._log.insert(self._connection, drafts)

    async def __aenter__(self) -> None:
        """Begin to take messages."""
        if is_of_django(self._connection):
            find_django(self._connection)
        self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Insert the messages, unless the block has raised."""
        if drafts := self._end(kind):
            await ainsert(self._log, self._connection, drafts)

    def _begin(self) -> None:
        if self._recording is not None:
            raise ConfigurationError("a block of an outbox is used once; call outbox() again")
        self._watch = BlockWatch(self._connection)
        self._recording = self._stack.enter_context(record(self._owner, self._watch.look))

    def _end(self, kind: type[BaseException] | None) -> list[Any]:
        """Return the messages to insert."""
        self._stack.close()
        assert self._recording is not None
        assert self._watch is not None
        self._watch.stop()
        # A child that was forked in the block leaves it as well, with its parent's connection.
        drafts = self._recording.drafts if kind is None and self._recording.is_ours else []
        if drafts and self._watch.has_ended():
            _warn(len(drafts), self._log.channel)
        return drafts


def _warn(waiting: int, channel: str) -> None:
    """Warn, as whoever commits in the block may not know that another commit is needed.

    It isn't an error: some do commit again.
    """
    logger.warning(
        "%s of the outbox %s became part of a new transaction, as the one before was ended in the "
        "block: end the block first, then commit",
        count(waiting, "message"),
        channel.removeprefix(PREFIX),
        extra=about("ended_in_block", channel=channel, count=waiting),
    )
