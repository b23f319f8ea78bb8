"""The values that are read from the log, and written there: entries, positions and figures."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pgnotifier._delivery.portions import Row
from pgnotifier._log.dead_letters import Failure


class Window(NamedTuple):
    """Where a subscription is in the log.

    Attributes:
        state: "taken", or why it can't be read: "gone", "foreign" or "moved".
        n: The number of the position; None unless it can be read.
        done: Each entry that is visible in this snapshot is delivered.
        target: The end of the window, a snapshot.
        last_id: Entries of the window up to this number are delivered.
        is_now: Whether the window ends at the present.
        id_hi: The highest number in the log when the position was saved.
        newest: The highest number in the log now.
    """

    state: str
    n: int
    done: str
    target: str
    last_id: int
    is_now: bool
    id_hi: int
    newest: int


class Fetched(NamedTuple):
    """What was read in one step with the window that it is from.

    Attributes:
        window: Where the subscription is in the log.
        rows: The first entries of the window, in order.
        is_rest: Whether there are no more in it.
        is_held: Whether the session still holds the subscription.
    """

    window: Window
    rows: list[Row]
    is_rest: bool
    is_held: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A new position.

    Attributes:
        done: As in `Window`.
        target: As in `Window`; None if no window is under way.
        last_id: As in `Window`.
    """

    done: str
    target: str | None = None
    last_id: int = 0


class Figures(NamedTuple):
    """How far behind a subscription is.

    Attributes:
        newest: The highest number in the log.
        behind: How many entries come after its position; over a thousand, on any channel.
        oldest: When the oldest of them was published, or earlier; None if there is none.
        failed: How many entries are to be retried.
        attempts: The most attempts that any of them has had.
        dead: How many have failed for good.
    """

    newest: int
    behind: int
    oldest: datetime | None
    failed: int
    attempts: int
    dead: int


class Unread(NamedTuple):
    """A subscription that nobody has read for a long time, and that keeps space.

    Attributes:
        name: Its id.
        channel: Its channel.
        read_at: When it was last read.
        slots: How many slots it keeps.
        bytes: Their size.
    """

    name: str
    channel: str
    read_at: datetime
    slots: int
    bytes: int


class Missed(NamedTuple):
    """What was dropped for a subscription.

    Attributes:
        n: The number of this note.
        from_id: The first entry.
        to_id: The last entry.
        since: When the first one was published.
        until: When the last one was published.
        entries: How many there are, at most.
        is_exact: Whether they were counted.
    """

    n: int
    from_id: int
    to_id: int
    since: datetime
    until: datetime
    entries: int
    is_exact: bool


Failed = tuple[Row, Failure]
"""An entry that has failed, why, and what becomes of it."""
