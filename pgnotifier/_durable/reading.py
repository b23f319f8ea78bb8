"""The reading of one durable subscription: from its position on, and ahead of what is delivered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pgnotifier._connection.encoding import Encoding
from pgnotifier._delivery.intake import EntryItem
from pgnotifier._durable.ahead import read_ahead
from pgnotifier._durable.bookmark import BATCH, UNSYNCED, Bookmark
from pgnotifier._durable.flight import Flight, launch
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.rows import Failed, Fetched, Place, Window
from pgnotifier.dispatch import Binding, Dispatcher

if TYPE_CHECKING:
    from pgnotifier._delivery.portions import Row

AT_ONCE = 2000
"""How many entries are read at a time, at most; more for a dispatcher with larger batches. A read
takes some milliseconds besides what it takes for each entry."""
ReadAhead = Callable[[LogSession, int, int, Place, int], Fetched | None]
"""A function such as `read_ahead`, which gets the same arguments."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many entries are read, and delivered, at a time.

    Attributes:
        batch: How many may be delivered again after a crash.
        unsynced: How many of them may be saved without waiting for the disk.
        at_once: How many are read in one step.
    """

    batch: int = BATCH
    unsynced: int = UNSYNCED
    at_once: int = AT_ONCE

    @classmethod
    def of(cls, dispatcher: Dispatcher) -> "Sizes":
        """Return those for a dispatcher."""
        batch = max(BATCH, dispatcher.batch_size)
        return cls(batch, at_once=max(batch, AT_ONCE))


class Reading:
    """What was read, and where to read on. The source's thread owns it.

    What was read ahead is kept until it is its turn. It hasn't been handed over, so it can be
    dropped at any time and read again. There is none unless the session holds the subscription.

    Attributes:
        bookmark: The position that is known.
        fetched: The result of the latest step, if nothing was done with it yet.
    """

    def __init__(self, sizes: Sizes, read: ReadAhead = read_ahead) -> None:
        """Begin without a position.

        Args:
            sizes: How many entries to read, and to hand over, at a time.
            read: Reads ahead; returns None for what `LogSession.advance` has to read.
        """
        self._read_ahead = read
        self.fetched: Fetched | None = None
        self._sizes = sizes
        self._window: Window | None = None
        self._rows: Sequence[Row] = ()
        self._is_rest = False
        self._was_ahead_of: Flight | None = None
        self._end_of_long: str | None = None  # of a window that `read_ahead` doesn't read
        self.begin_again()

    @property
    def has_next(self) -> bool:
        """Whether something was read and isn't handed over yet."""
        return bool(self._rows) or self.fetched is not None

    @property
    def has_entries(self) -> bool:
        """Whether these are entries to hand over."""
        return bool(self._rows)

    def begin_again(self) -> None:
        """Forget the position."""
        self.bookmark = Bookmark(self._sizes.batch, self._sizes.unsynced)
        self.drop()

    def drop(self) -> None:
        """Forget what was read and isn't handed over yet."""
        self.fetched = self._was_ahead_of = None
        self._rows = ()

    def keep(self, fetched: Fetched) -> None:
        """Keep entries until they are handed over."""
        self._window, self._rows, self._is_rest = fetched.window, fetched.rows, fetched.is_rest

    def launch(
        self,
        binding: Binding,
        hand_over: Callable[[Sequence[EntryItem]], object],
        on_settled: Callable[[], object],
        encoding: Encoding,
        attempts: int | None,
    ) -> Flight:
        """Hand the next entries over, and return their flight.

        Args:
            binding: The subscription.
            hand_over: Gives them to the deliverer.
            on_settled: Called on any thread, once all are settled or lost.
            encoding: The database's.
            attempts: How many times the next one was tried, if it is to be handed over alone, and
                those after it are to be read again. None: hand over as many as allowed.
        """
        assert self._window is not None
        most = self.bookmark.limit if attempts is None else 1
        rows, self._rows = self._rows[:most], self._rows[most:]
        is_rest = self._is_rest and not self._rows
        if attempts is not None:
            rows = [replace(row, attempts=attempts) for row in rows]
            self.drop()
        return launch(rows, binding, hand_over, on_settled, encoding, self._window, is_rest=is_rest)

    def advance(
        self, session: LogSession, sub: int, *, is_single: bool, keep: bool, is_held: bool
    ) -> Fetched | None:
        """Hold the subscription, and read what comes next; return None if another replica has it.

        Args:
            session: The session.
            sub: The subscription's number.
            is_single: Whether to read a single entry.
            keep: Whether to hold it even if there is nothing to read.
            is_held: Whether it is held already.
        """
        most = 1 if is_single else self._sizes.at_once
        known, ahead = self.bookmark.ahead_of
        self.fetched = session.advance(sub, known, ahead, most, keep=keep, is_held=is_held)
        return self.fetched

    def read_ahead(self, session: LogSession, sub: int, flight: Flight) -> None:
        """Read what comes after entries that are under way, once while they are.

        Args:
            session: The session, which holds the subscription.
            sub: The subscription's number.
            flight: The entries.
        """
        if self.has_next or not flight.is_followed or self._was_ahead_of is flight:
            return
        known, place, most = self.bookmark.known, flight.end, self._sizes.at_once
        assert known is not None
        fetched = None
        if place.target is None or place.target != self._end_of_long:
            fetched = self._read_ahead(session, sub, known, place, most)
        if fetched is None:
            self._end_of_long = place.target
            fetched = session.advance(sub, known, place, most, keep=True, is_held=True)
        self._was_ahead_of = flight
        if fetched is not None and fetched.window.n == known:
            self.keep(fetched)

    def save(
        self,
        session: LogSession,
        sub: int,
        channel: str,
        place: Place,
        count: int,
        failed: Sequence[Failed],
        *,
        waits: bool,
    ) -> bool:
        """Move the position; return False if somebody else has moved it. See `Bookmark.save`."""
        save = self.bookmark.save
        return self._note(save(session, sub, channel, place, count, failed, waits=waits))

    def save_and_look(
        self,
        session: LogSession,
        sub: int,
        channel: str,
        place: Place,
        count: int,
        failed: Sequence[Failed],
        *,
        waits: bool,
    ) -> bool:
        """Do the same, and read on in the same step, unless what comes next was read already.

        The session has to hold the subscription.
        """
        if self.has_next or failed:
            return self.save(session, sub, channel, place, count, failed, waits=waits)
        waits = self.bookmark.waits(count, is_safe=waits)
        fetched = session.advance(
            sub,
            self.bookmark.known,
            place,
            self._sizes.at_once,
            keep=True,
            is_held=True,
            settled=place,
            waits=waits,
        )
        assert fetched is not None
        made = fetched.window.n if fetched.window.state == "taken" else None
        is_saved = self._note(self.bookmark.note(made, place, count, waits=waits))
        if is_saved:
            self.fetched = fetched
        return is_saved

    def _note(self, is_saved: bool) -> bool:
        if not is_saved:
            self.drop()
        return is_saved
