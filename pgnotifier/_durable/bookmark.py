"""A bookmark: what a source remembers of a subscription's position in the log."""

from collections.abc import Sequence

from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.rows import Failed, Place

BATCH = 1000
"""How many entries are handed over at a time, at most, and thus how many may be delivered twice
after a crash. More for a dispatcher with larger batches."""
UNSYNCED = 100
"""How many entries may be delivered and their position saved before a save waits for the disk.
After a crash of the server these may be delivered again, too, so the next batch is that much
smaller. The wait takes longer than the delivery of a few entries."""


class Bookmark:
    """The latest position that is known, and what follows from it. The source's thread owns it.

    Attributes:
        known: The number of the position; None if it isn't known.
        ahead: A snapshot up to which there is nothing to deliver after that position, if one is
            known.
        unsynced: How many entries before it may be delivered again after a crash of the server.
    """

    def __init__(self, batch: int = BATCH, most_unsynced: int = UNSYNCED) -> None:
        """Begin without a position.

        Args:
            batch: How many entries may be delivered again after a crash.
            most_unsynced: How many of them may be saved without waiting for the disk.
        """
        self._batch = batch
        self._most_unsynced = most_unsynced
        self.known: int | None = None
        self.ahead: str | None = None
        self.unsynced = most_unsynced

    @property
    def ahead_of(self) -> tuple[int | None, Place | None]:
        """`ahead` as a place, after the number of the position that it belongs to."""
        return (None, None) if self.ahead is None else (self.known, Place(self.ahead))

    @property
    def limit(self) -> int:
        """How many entries may be handed over next."""
        return self._batch - self.unsynced

    def move(self, known: int | None) -> None:
        """Note another position, which somebody else has saved."""
        self.known, self.ahead = known, None
        self.unsynced = self._most_unsynced  # nobody knows whether that has waited for the disk

    def save(
        self,
        session: LogSession,
        sub: int,
        channel: str,
        place: Place,
        count: int = 0,
        failed: Sequence[Failed] = (),
        *,
        waits: bool = False,
    ) -> bool:
        """Move the position; return False if somebody else has moved it meanwhile.

        Args:
            session: The session.
            sub: The subscription's number.
            channel: Its channel.
            place: The new position.
            count: How many entries are settled since the last one.
            failed: Those of them that have failed.
            waits: Whether to wait for the disk in any case.
        """
        assert self.known is not None
        waits = self.waits(count, is_safe=waits or bool(failed))
        made = session.save(sub, self.known, channel, place, failed, waits=waits)
        return self.note(made, place, count, waits=waits)

    def waits(self, count: int, *, is_safe: bool = False) -> bool:
        """Return whether saving the position after a number of entries waits for the disk.

        Args:
            count: How many entries are settled since the last one.
            is_safe: Whether to wait in any case.
        """
        return is_safe or (count > 0 and self.unsynced + count > self._most_unsynced)

    def note(self, made: int | None, place: Place, count: int, *, waits: bool) -> bool:
        """Note that the position was saved; return False if somebody else has moved it meanwhile.

        Args:
            made: The number of the new position; None if there is none.
            place: The new position.
            count: How many entries are settled since the last one.
            waits: Whether that has waited for the disk.
        """
        unsynced = self.unsynced + count
        self.move(made)
        if made is None:
            return False
        self.unsynced = 0 if waits else unsynced
        self.ahead = place.done if place.target is None else None
        return True
