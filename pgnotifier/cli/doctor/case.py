"""The case that `doctor` examines: the database, the notifiers, and its deadlines."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pgnotifier.cli.finding import find_channels
from pgnotifier.cli.target import Target
from pgnotifier.dispatch import Dispatcher


@dataclass(frozen=True, slots=True)
class Case:
    """What is examined.

    Attributes:
        target: The database, and the notifiers that use it.
        channels: Further channels to check the names of.
        timeout: Seconds within which each question must be answered.
        old: The age, in seconds, from which on an open transaction is reported.
        now: Returns this machine's time, in seconds since 1970.
        secrets: Passwords that have become known, and are never shown.
    """

    target: Target
    channels: tuple[str, ...] = ()
    timeout: float = 5.0
    old: float = 300.0
    now: Callable[[], float] = time.time
    secrets: list[str] = field(default_factory=list)

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """The dispatchers of the notifiers."""
        found = (one for notifier in self.target.notifiers for one in notifier.dispatchers)
        return list(dict.fromkeys(found))

    def find_channels(self, *, durable: bool) -> list[str]:
        """Return the channels of the durable subscriptions, or those that are listened to."""
        found = set() if durable else {*self.channels}
        for notifier in self.target.notifiers:
            found.update(find_channels(notifier, durable=durable))
        return sorted(found)
