"""The reader's command queue: what other threads ask it to do with its connection."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pgnotifier._runtime.sync import Outcome
from pgnotifier.errors import NotifierStoppedError

Verb = Literal["listen", "unlisten", "restart"]


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """One thing to do; `done` is settled once it is live, or has failed."""

    verb: Verb
    channels: tuple[str, ...] = ()
    done: Outcome = field(default_factory=Outcome)


class Commands:
    """A queue of commands. Any thread may call `ask`; the other methods are for the reader.

    Attributes:
        lock: Makes sure that a reader that ends leaves no command without an outcome.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._waiting: deque[Command] = deque()
        self._closed = False

    def ask(self, verb: Verb, channels: Iterable[str] = ()) -> Outcome:
        """Queue a command, and return its outcome, which is settled once the command is live."""
        command = Command(verb, tuple(channels))
        with self.lock:
            if self._closed:
                command.done.settle(NotifierStoppedError("the notifier has stopped"))
            else:
                self._waiting.append(command)
        return command.done

    def first(self) -> Command | None:
        """Return the next command, which stays in the queue until `end` is called with it.

        So it is run again if the connection is lost meanwhile.
        """
        return self._waiting[0] if self._waiting else None  # only the reader removes any

    def waiting(self, verb: Verb) -> list[Command]:
        """Return the commands with a verb, in order."""
        with self.lock:
            return [command for command in self._waiting if command.verb == verb]

    def channels(self, verb: Verb) -> set[str]:
        """Return the channels of the commands with a verb."""
        return {name for command in self.waiting(verb) for name in command.channels}

    def end(self, commands: Iterable[Command], exc: BaseException | None = None) -> None:
        """Remove commands from the queue, and settle their outcomes."""
        for command in commands:
            with self.lock:
                self._waiting.remove(command)
            command.done.settle(exc)

    def close(self, why: BaseException) -> None:
        """Fail the commands that are left, and every later one."""
        with self.lock:
            self._closed = True
            left = tuple(self._waiting)
        self.end(left, why)
