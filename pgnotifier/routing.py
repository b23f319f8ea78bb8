"""Routing: each notification into the buffers of the dispatchers that are to get it."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg.pq import PGnotify

from pgnotifier.delivery import Deliverer
from pgnotifier.dispatch import Dispatcher
from pgnotifier.moment import Moment
from pgnotifier.registry import Binding, Registry

if TYPE_CHECKING:
    from pgnotifier.buffer import Item


class _Echo:
    """Stands in a deliverer's place for what the listener sends itself."""

    def __init__(self) -> None:
        self.inbox: list[Item] = []


Route = tuple[str, tuple[tuple[Deliverer | _Echo, tuple[Binding, ...]], ...]]
"""A channel's name, and its bindings by deliverer."""


class Router:
    """The deliverers of a listener, and which of them each channel goes to.

    Owned by the reader thread; other threads only read the attributes.

    Attributes:
        deliverers: By dispatcher. Replaced, never changed in place.
        received: How many notifications have passed.
        private: The channel on which the listener notifies itself. Nobody can guess its name.
        echoes: What came on that, with the pid of the server process that sent it.
    """

    def __init__(
        self,
        registry: Callable[[], Registry],
        make_deliverer: Callable[[Dispatcher], Deliverer],
        leaving: Callable[[], set[str]],
    ) -> None:
        """Take where to look things up.

        Args:
            registry: Returns the registry as it is now.
            make_deliverer: Makes the deliverer of a dispatcher, not started yet.
            leaving: Returns the channels that were removed, and whose UNLISTEN is still to come.
        """
        self.deliverers: Mapping[Dispatcher, Deliverer] = {}
        self.received = 0
        self.private = f"pgnotifier_{secrets.token_hex(16)}"
        self.echoes: dict[str, int] = {}
        self._echo = _Echo()
        self._registry = registry
        self._make_deliverer = make_deliverer
        self._find_leaving = leaving
        self._routes: dict[bytes, Route] = {}
        self._routed: Registry | None = None
        self._leaving: set[str] = set()

    def hand_on(self, notifies: Callable[[], PGnotify | None], proven_at: Moment) -> bool:
        """Put all that libpq has parsed into buffers; return whether there was a notification.

        Args:
            notifies: Returns the next notification, or None.
            proven_at: All that was committed before has been handed on earlier.
        """
        arrived = notifies()
        if arrived is None:
            return False
        registry = self._registry()
        if registry is not self._routed:
            self._routes.clear()
            self._routed = registry
            # Not for those who subscribed to such a channel after it had been removed.
            self._leaving = self._find_leaving()
        routes = self._routes
        received_at = datetime.now(UTC)
        count = 0
        while arrived is not None:
            count += 1
            route = routes.get(arrived.relname)
            if route is None:
                route = self._route(registry, arrived.relname)
            channel, lanes = route
            for deliverer, bindings in lanes:
                item: Item = (channel, bindings, arrived, received_at, proven_at)
                deliverer.inbox.append(item)
            arrived = notifies()
        for _, _, own, *_ in self._echo.inbox:
            self.echoes[own.extra.decode("ascii", "replace")] = own.be_pid
        count -= len(self._echo.inbox)
        self._echo.inbox.clear()
        self.received += count
        for deliverer in self.deliverers.values():
            if deliverer.inbox:
                deliverer.put()
        return count > 0

    def start_deliverers(self, channels: Iterable[str]) -> None:
        """Start the deliverers of channels that will be heard.

        Not when the first notification comes: the main program may have ended by then, after
        which Python 3.12.0 and 3.12.1 start no more threads.

        Raises:
            RuntimeError: No thread can be had.
        """
        registry = self._registry()
        for channel in channels:
            for dispatcher, _ in registry.lanes(channel):
                self._deliverer(dispatcher)

    def forget_leaving(self) -> None:
        """Look at the channels anew: some have been unlistened to."""
        self._routed = None

    def is_full(self) -> bool:
        """Return whether some buffer is full, so that nothing more should be read."""
        return any(deliverer.full for deliverer in self.deliverers.values())

    def is_overfull(self) -> bool:
        """Return whether some buffer holds so much more than it should that none is to be added."""
        return any(deliverer.overfull for deliverer in self.deliverers.values())

    def _route(self, registry: Registry, relname: bytes) -> Route:
        # What comes on a removed channel has no lanes, and goes nowhere.
        channel = relname.decode("utf-8", "surrogateescape")
        found = () if channel in self._leaving else registry.lanes(channel)
        lanes: tuple[tuple[Deliverer | _Echo, tuple[Binding, ...]], ...]
        lanes = tuple((self._deliverer(d), bindings) for d, bindings in found)
        if channel == self.private:
            lanes = ((self._echo, ()),)
        route = self._routes[relname] = (channel, lanes)
        return route

    def _deliverer(self, dispatcher: Dispatcher) -> Deliverer:
        found = self.deliverers.get(dispatcher)
        if found is None:
            found = self._make_deliverer(dispatcher)
            found.start()
            self.deliverers = {**self.deliverers, dispatcher: found}  # others iterate over it
        return found
