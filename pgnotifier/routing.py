"""Routing: each notification into the buffers of the dispatchers that are to get it."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from psycopg.pq import PGnotify

from pgnotifier.buffer import Item
from pgnotifier.delivery import Deliverer
from pgnotifier.dispatch import Dispatcher
from pgnotifier.moment import Moment
from pgnotifier.registry import Binding, Registry


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

    def sort(
        self,
        notifies: Callable[[], PGnotify | None],
        proven_at: Moment,
        read_more: Callable[[], bool],
    ) -> int:
        """Sort what has come by deliverer, for `hand_on`; return how many notifications it was.

        Args:
            notifies: Returns the next notification, or None.
            proven_at: All that was committed before has been handed on earlier.
            read_more: Called when there is no next one; returns whether there may be by now.
        """
        arrived = notifies()
        if arrived is None:
            return 0
        self._look_up_registry()
        routes = self._routes
        received_at = datetime.now(UTC)
        count = before = 0
        try:
            while True:
                if arrived is not None:
                    count += 1
                    route = routes.get(arrived.relname) or self._route(arrived.relname)
                    channel, lanes = route
                    data, pid = arrived.extra, arrived.be_pid
                    for deliverer, bindings in lanes:
                        deliverer.inbox.append(
                            Item(channel, bindings, data, pid, received_at, proven_at)
                        )
                elif count - before > 1 and read_more():
                    before = count
                    # Again: what was just read may have been sent after a subscription was made.
                    self._look_up_registry()
                else:  # one that comes by itself has hardly more behind it
                    break
                arrived = notifies()
        finally:
            count -= self._take_echoes()
            self.received += count
        return count

    def hand_on(self) -> None:
        """Put what was sorted into the buffers."""
        for deliverer in self.deliverers.values():
            if deliverer.inbox:
                deliverer.put()

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

    def has_missed(self) -> bool:
        """Return whether something was dropped that is still to be told."""
        return any(deliverer.has_missed for deliverer in self.deliverers.values())

    def is_overfull(self) -> bool:
        """Return whether some buffer holds so much more than it should that none is to be added."""
        return any(deliverer.overfull for deliverer in self.deliverers.values())

    def _look_up_registry(self) -> None:
        """See that routes are made by the registry as it is now."""
        registry = self._registry()
        if registry is not self._routed:
            self._routes.clear()
            self._routed = registry
            # Not for those who subscribed to such a channel after it had been removed.
            self._leaving = self._find_leaving()

    def _route(self, relname: bytes) -> Route:
        assert self._routed is not None
        # What comes on a removed channel has no lanes, and goes nowhere.
        channel = relname.decode("utf-8", "surrogateescape")
        found = () if channel in self._leaving else self._routed.lanes(channel)
        lanes: tuple[tuple[Deliverer | _Echo, tuple[Binding, ...]], ...]
        lanes = tuple((self._deliverer(d), bindings) for d, bindings in found)
        if channel == self.private:
            lanes = ((self._echo, ()),)
        route = self._routes[relname] = (channel, lanes)
        return route

    def _take_echoes(self) -> int:
        """Take down what the listener sent itself; return how many notifications that was."""
        own, self._echo.inbox = self._echo.inbox, []
        for one in own:
            self.echoes[one.data.decode("ascii", "replace")] = one.pid
        return len(own)

    def _deliverer(self, dispatcher: Dispatcher) -> Deliverer:
        found = self.deliverers.get(dispatcher)
        if found is None:
            found = self._make_deliverer(dispatcher)
            found.start()
            self.deliverers = {**self.deliverers, dispatcher: found}  # others iterate over it
        return found
