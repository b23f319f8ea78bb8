"""The listener factory: makes each listener of a notifier from its settings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pgnotifier._connection.parameters import Parameters
from pgnotifier._delivery.buffer import Overflow
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.reports import GapReport
from pgnotifier._listener.listener import Listener, Settings
from pgnotifier._listener.state import StateReport
from pgnotifier._registry.registry import Registry
from pgnotifier.dispatch import Dispatcher


class DecodingOwner(Protocol):
    """What a factory has to know of a notifier."""

    decoder: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Buffering:
    """The bounds of each dispatcher's buffer.

    Attributes:
        size: How many notifications may wait.
        max_bytes: How many bytes of payloads may wait.
        overflow: What happens to more notifications than that.
    """

    size: int
    max_bytes: int
    overflow: Overflow


@dataclass(slots=True)
class ListenerFactory:
    """Makes listeners with the settings as they are when a listener is started.

    Attributes:
        owner: The notifier.
        parameters: Where to connect to.
        registry: Returns the current registry.
        report_gap: Called with each gap.
        report_state: Called with each state.
        settings: How to listen.
        buffering: The bounds of buffers.
    """

    owner: DecodingOwner
    parameters: Parameters
    registry: Callable[[], Registry]
    report_gap: GapReport
    report_state: StateReport
    settings: Settings
    buffering: Buffering

    def make(self, *, waits: bool) -> Listener:
        """Return a new listener that isn't running yet.

        Args:
            waits: Whether it keeps trying to connect for the first time.
        """
        return Listener(
            self.parameters,
            self.registry,
            self._make_deliverer,
            self.report_gap,
            self.report_state,
            replace(self.settings, waits=waits),
        )

    def _make_deliverer(self, dispatcher: Dispatcher, on_room: Callable[[], None]) -> Deliverer:
        return Deliverer(
            dispatcher,
            decode=self.owner.decoder,
            size=self.buffering.size,
            max_bytes=self.buffering.max_bytes,
            overflow=self.buffering.overflow,
            on_room=on_room,
            owner=self.owner,
        )
