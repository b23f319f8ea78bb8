"""Routing: each notification into the buffers of the dispatchers that are to get it."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg.pq import PGnotify

from pgnotifier.delivery import Deliverer
from pgnotifier.dispatch import Dispatcher
from pgnotifier.moment import Moment
from pgnotifier.records import about
from pgnotifier.recurring import Recurring
from pgnotifier.registry import Binding, Registry

if TYPE_CHECKING:
    from pgnotifier.buffer import Item

logger = logging.getLogger("pgnotifier.routing")

ECHOES = 100
"""How many notifications to itself a listener remembers: it looks for one at a time."""
SPARE = 100
"""How many channels that are gone may be counted besides as many as there are."""
ECHO_BYTES = 64
"""The longest that can be one."""


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
        self._counts: dict[bytes, int] = {}  # by channel
        self.private = f"pgnotifier_{secrets.token_hex(16)}"
        self.echoes: dict[str, int] = {}
        self._echo = _Echo()
        self._registry = registry
        self._make_deliverer = make_deliverer
        self._find_leaving = leaving
        self._routes: dict[bytes, Route] = {}
        self._routed: Registry | None = None
        self._relayed: list[bytes] = []
        self._making = threading.Lock()  # of deliverers; guards `_unstarted`
        self._unstarted: list[Deliverer] = []
        self._warn = Recurring(logger)
        self._leaving: set[str] = set()

    def hand_on(self, notifies: Callable[[], PGnotify | None], proven_at: Moment) -> bool:
        """Put all that libpq has parsed into buffers; return whether there was a notification.

        Args:
            notifies: Returns the next notification, or None.
            proven_at: All that was committed before has been handed on earlier.
        """
        if logger.isEnabledFor(logging.DEBUG):
            notifies = self._logging(notifies)
        arrived = notifies()
        if arrived is None:
            return False
        registry = self._registry()
        if registry is not self._routed:
            self._routes.clear()
            self._routed = registry
            # Not for those who subscribed to such a channel after it had been removed.
            self._leaving = self._find_leaving()
            self._forget_counts(registry)
        elif self._relayed:
            self._forget_relayed()
        routes, counts = self._routes, self._counts
        received_at = datetime.now(UTC)
        count = 0
        while arrived is not None:
            count += 1
            route = routes.get(arrived.relname)
            if route is None:
                route = self._route(registry, arrived.relname)
            counts[arrived.relname] = counts.get(arrived.relname, 0) + 1
            channel, lanes = route
            for deliverer, bindings in lanes:
                item: Item = (channel, bindings, arrived, received_at, proven_at)
                deliverer.inbox.append(item)
            arrived = notifies()
        for _, _, own, *_ in self._echo.inbox:
            self._note_echo(own.extra, own.be_pid)
        count -= len(self._echo.inbox)
        self._echo.inbox.clear()
        self.received += count
        for deliverer in self.deliverers.values():
            if deliverer.inbox:
                deliverer.put()
        return count > 0

    def counts(self) -> Mapping[str, int]:
        """Return how many notifications have come on each registered channel. For any thread."""
        registry = self._registry()
        found = {_name(relname): count for relname, count in self._counts.copy().items()}
        return {name: count for name, count in sorted(found.items()) if name in registry}

    def _forget_counts(self, registry: Registry) -> None:
        """Forget what came on channels that are gone, if these are many."""
        if len(self._counts) > 2 * len(registry) + SPARE:
            kept = {name: n for name, n in self._counts.items() if _name(name) in registry}
            self._counts = kept

    def _logging(self, notifies: Callable[[], PGnotify | None]) -> Callable[[], PGnotify | None]:
        """Return the same, logging each notification, but not its payload: that may be secret."""

        def logged() -> PGnotify | None:
            arrived = notifies()
            if arrived is not None and (name := _name(arrived.relname)) != self.private:
                lanes = self._registry().lanes(name)
                ids = [binding.id for _, bindings in lanes for binding in bindings]
                size = len(arrived.extra)
                logger.debug(
                    "received %d bytes on channel %r for %s",
                    size,
                    name,
                    ", ".join(map(repr, ids)) or "nobody",
                    extra=about("received", channel=name, size=size, subscriptions=ids),
                )
            return arrived

        return logged

    def _note_echo(self, token: bytes, pid: int) -> None:
        """Keep what came on the private channel: a few, should somebody know its name after all."""
        if len(token) <= ECHO_BYTES:
            self.echoes[token.decode("ascii", "replace")] = pid
            if len(self.echoes) > ECHOES:
                del self.echoes[next(iter(self.echoes))]

    @property
    def is_stuck(self) -> bool:
        """Whether `resume` is to be called until the thread of a deliverer can be started."""
        return bool(self._unstarted)

    def resume(self) -> None:
        """Try to start the deliverers that there was no thread for."""
        with self._making:
            self._start_all()

    def start_deliverers(self, channels: Iterable[str]) -> None:
        """Start the deliverers of channels that will be heard.

        Not when the first notification comes: the main program may have ended by then, after
        which Python 3.12.0 and 3.12.1 start no more threads. One that can't be started now is
        later: see `resume`.
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
        channel = _name(relname)
        found = () if channel in self._leaving else registry.lanes(channel)
        lanes: tuple[tuple[Deliverer | _Echo, tuple[Binding, ...]], ...]
        lanes = tuple(lane for d, bindings in found for lane in self._lanes(d, bindings, relname))
        if channel == self.private:
            lanes = ((self._echo, ()),)
        route = self._routes[relname] = (channel, lanes)
        return route

    def _lanes(
        self, dispatcher: Dispatcher, bindings: tuple[Binding, ...], relname: bytes
    ) -> list[tuple[Deliverer, tuple[Binding, ...]]]:
        """Return where a dispatcher's bindings are delivered.

        As long as something waits for a binding that one of them is the heir of, it gets what
        comes through the former's deliverer, behind that. Only then it is in order.
        """
        lanes: list[tuple[Deliverer, tuple[Binding, ...]]] = []
        direct: list[Binding] = []
        for binding in bindings:
            earliest = binding.earliest(self.deliverers)
            if earliest is binding:
                direct.append(binding)
            else:
                self._relayed.append(relname)
                lanes.append((self.deliverers[earliest.dispatcher], (earliest,)))
        if direct:
            lanes.append((self._deliverer(dispatcher), tuple(direct)))
        return lanes

    def _forget_relayed(self) -> None:
        """Look anew at the channels whose former bindings something may have waited for."""
        for relname in self._relayed:
            self._routes.pop(relname, None)
        self._relayed.clear()

    def _deliverer(self, dispatcher: Dispatcher) -> Deliverer:
        with self._making:  # a deliverer may ask, too, when it hands on to another one
            found = self.deliverers.get(dispatcher)
            if found is None:
                found = self._make_deliverer(dispatcher)
                found.succession.find = self._deliverer
                self._unstarted.append(found)
                self.deliverers = {**self.deliverers, dispatcher: found}  # others iterate over it
            if self._unstarted:
                self._start_all()
            return found

    def _start_all(self) -> None:
        """Start the deliverers that haven't been; what comes for them waits until they can be."""
        for deliverer in self._unstarted.copy():
            try:
                deliverer.start()
            except RuntimeError as exc:
                self._warn(
                    "no thread can be started for %s (%s); trying again",
                    deliverer.name,
                    exc,
                    extra=about("no_thread", dispatcher=deliverer.name),
                )
                return
            self._unstarted.remove(deliverer)


def _name(relname: bytes) -> str:
    return relname.decode("utf-8", "surrogateescape")
