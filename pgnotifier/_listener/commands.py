"""The reader's command queue: what others ask it to do to its connection."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pgnotifier._runtime.sync import Outcome, is_held_here
from pgnotifier.errors import NotifierStoppedError

Verb = Literal["listen", "unlisten", "restart"]


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """One thing to do; `done` tells when it is live."""

    verb: Verb
    channels: tuple[str, ...] = ()
    done: Outcome = field(default_factory=Outcome)


class Commands:
    """A queue that any thread may ask through; all but `ask` is for the reader.

    The lock makes sure that no command is left behind by a reader that has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: deque[Command] = deque()
        self._closed = False

    @property
    def is_locked_here(self) -> bool:
        """Whether the calling code has interrupted what holds the lock."""
        return is_held_here(self._lock)

    def ask(self, verb: Verb, channels: Iterable[str] = ()) -> Outcome:
        """Queue a command and return its outcome: it is done once it is live."""
        command = Command(verb, tuple(channels))
        with self._lock:
            if self._closed:
                command.done.settle(NotifierStoppedError("the notifier has stopped"))
            else:
                self._waiting.append(command)
        return command.done

    def first(self) -> Command | None:
        """Return the command whose turn it is; it stays in the queue until it is ended.

        So it is run again if the connection goes meanwhile.
        """
        return self._waiting[0] if self._waiting else None  # the reader alone takes any off

    def waiting(self, verb: Verb) -> list[Command]:
        """Return the commands of a kind, in order."""
        with self._lock:
            return [command for command in self._waiting if command.verb == verb]

    def channels(self, verb: Verb) -> set[str]:
        """Return the channels that commands of a kind are about."""
        return {name for command in self.waiting(verb) for name in command.channels}

    def end(self, commands: Iterable[Command], exc: BaseException | None = None) -> None:
        """Take commands off the queue, done or failed."""
        for command in commands:
            with self._lock:
                self._waiting.remove(command)
            command.done.settle(exc)

    def close(self, why: BaseException) -> None:
        """Fail what is left, and from now on what is asked."""
        with self._lock:
            self._closed = True
            left = tuple(self._waiting)
        self.end(left, why)
