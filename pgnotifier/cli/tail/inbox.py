"""The queue of `pgnotifier tail` from the threads that receive to the thread that prints."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from pgnotifier.notification import Notification

LISTS = 8
"""How many lists wait at most. A thread that brings more has to wait."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Notifications or entries that may be missing at this point.

    Attributes:
        since: From when on; aware.
        until: Until when; aware.
        reason: What happened.
        channels: On which channels.
        missed: How many are missing, if that is known.
        was_cut: Whether the connection was lost. Otherwise, the output was too slow.
    """

    since: datetime
    until: datetime
    reason: str
    channels: tuple[str, ...]
    missed: int | None = None
    was_cut: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection was lost, and isn't back yet.

    Attributes:
        since: When it was lost; aware.
        why: Why.
    """

    since: datetime
    why: str


Event = Notification | Loss | Cut


class Inbox:
    """Lists of events, in order. Any thread puts them in; one takes them out."""

    def __init__(self) -> None:
        """Begin empty."""
        self._changed = threading.Condition()
        self._lists: deque[Sequence[Event]] = deque()
        self._is_closed = False
        self.error: BaseException | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nobody takes anything out any more."""
        return self._is_closed

    def put(self, events: Sequence[Event]) -> bool:
        """Add a list, once there is room. Return False if it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._lists) < LISTS)
            if self._is_closed:
                return False
            self._lists.append(events)
            self._changed.notify_all()
            return True

    def take(self, timeout: float) -> Sequence[Event]:
        """Return the next list; an empty one after `timeout` seconds.

        Raises:
            BaseException: What was given to `fail`.
        """
        with self._changed:
            until = monotonic() + timeout
            while not self._lists and self.error is None and (left := until - monotonic()) > 0:
                self._changed.wait(left)
            if self._lists:
                found = self._lists.popleft()
                self._changed.notify_all()
                return found
            if self.error is not None:
                raise self.error
            return ()

    def fail(self, error: BaseException) -> None:
        """Have `take` raise an error once it has returned the rest."""
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait for a number of seconds, or until it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, seconds)

    def close(self) -> None:
        """Have `put` and `pause` return at once from now on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
