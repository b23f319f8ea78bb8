"""Routing: put each notification into the buffers of its dispatchers; make their deliverers."""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import UTC, datetime

from psycopg.pq import PGnotify

from pgnotifier._delivery.buffer import Item, ReferenceItem
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.totals import Totals
from pgnotifier._inquiry.messages import QUESTIONS
from pgnotifier._log.references import CHANNEL as REFERENCES
from pgnotifier._log.references import parse_reference
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.clock import Moment
from pgnotifier._runtime.log_records import LogThrottle, about, count
from pgnotifier._runtime.sync import is_held_here
from pgnotifier.dispatch import Binding, Dispatcher

logger = logging.getLogger("pgnotifier.routing")

ECHOES = 100
"""How many of its own notifications a listener remembers. It waits for one at a time."""
AT_ONCE = 5_000
"""How many notifications to sort before the deliverers get them. It takes about 5 ms, and
more would need megabytes of memory."""
SPARE = 100
"""How many more removed channels than registered ones may still be counted."""
ECHO_BYTES = 64
"""The longest payload that can be a listener's own."""


class _Tally:
    """How many notifications have arrived on a channel."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


OnQuestion = Callable[[bytes, int], object]
Route = tuple[str, tuple[tuple[Deliverer, tuple[Binding, ...]], ...], _Tally]
"""A channel's name, its bindings by deliverer, and its tally."""


class Router:
    """The deliverers of a listener, and which of them each channel goes to.

    Owned by the reader thread; other threads only read the attributes.

    Attributes:
        deliverers: By dispatcher. Replaced, never changed in place.
        ended: What those have done that were removed.
        received: How many notifications were routed, without the listener's own.
        private: The channel on which the listener notifies itself. Nobody can guess its name.
        own: All channels that are listened to for the listener itself.
        echoes: The payloads that arrived on that channel, with the pid of the server process that
            sent each.
        making: Held while deliverers are made, started or retired.
    """

    def __init__(
        self,
        registry: Callable[[], Registry],
        make_deliverer: Callable[[Dispatcher], Deliverer],
        leaving: Callable[[], set[str]],
        on_deliverer: Callable[[Deliverer], object] = lambda _: None,
        on_question: OnQuestion | None = None,
    ) -> None:
        """Make a router without deliverers.

        Args:
            registry: Returns the current registry.
            make_deliverer: Makes the deliverer of a dispatcher, not started yet.
            leaving: Returns the channels that were removed but are still listened to.
            on_deliverer: Called with each deliverer before it is started.
            on_question: Called with each question and the pid of its sender; None to get none.
        """
        self.on_question = on_question
        self.deliverers: Mapping[Dispatcher, Deliverer] = {}
        self.ended = Totals()
        self.received = 0
        self._tallies: dict[bytes, _Tally] = {}  # by channel
        self.private = f"pgnotifier_{secrets.token_hex(16)}"
        self.own = frozenset({self.private, REFERENCES} | ({QUESTIONS} if on_question else set()))
        self._own = frozenset(name.encode() for name in self.own)
        self.echoes: dict[str, int] = {}
        self._unrung: list[Deliverer] = []
        self._registry = registry
        self._make_deliverer = make_deliverer
        self._find_leaving = leaving
        self._on_deliverer = on_deliverer
        self._routes: dict[bytes, Route] = {}
        self._routed: Registry | None = None
        self._relayed: list[bytes] = []
        self.making = threading.RLock()  # of deliverers; guards `_unstarted`
        self._unstarted: list[Deliverer] = []
        self._warn = LogThrottle(logger)
        self._leaving: set[str] = set()
        self._retiring: set[Dispatcher] = set()
        self._to_retire: deque[Dispatcher] = deque()

    def sort(
        self,
        notifies: Callable[[], PGnotify | None],
        proven_at: Moment,
        read_more: Callable[[], bool],
    ) -> int:
        """Sort what has arrived by deliverer, for `hand_on`; return the number of notifications.

        Args:
            notifies: Returns the next notification, or None.
            proven_at: Everything that was committed before this moment was routed earlier.
            read_more: Reads more once there is no next one; returns whether it did.
        """
        if logger.isEnabledFor(logging.DEBUG):
            notifies = self._logging(notifies)
        arrived = notifies()
        if arrived is None:
            return 0
        self._look_up_registry()
        routes, own = self._routes, self._own
        received_at = datetime.now(UTC)
        count = before = 0
        try:
            while True:
                if arrived is not None:
                    relname, pid, data = arrived
                    route = routes.get(relname)
                    if route is None:  # so known channels aren't compared with our own
                        if relname in own:
                            count += self._take_own(arrived, received_at, proven_at)
                            arrived = notifies()
                            continue
                        route = self._route(relname)
                    count += 1
                    channel, lanes, tally = route
                    tally.count += 1
                    for deliverer, bindings in lanes:
                        deliverer.inbox.append(
                            Item(channel, bindings, data, pid, received_at, proven_at)
                        )
                elif count - before > 1 and count < AT_ONCE and read_more():
                    before = count
                    # What was just read may have been sent after a subscription was made.
                    self._look_up_registry()
                else:  # a notification that arrives alone is rarely followed by more
                    break
                arrived = notifies()
        finally:
            self.received += count
        return count

    def hand_on(self) -> None:
        """Put what was sorted into the buffers, and wake the deliverers."""
        self.stow()
        self.ring()

    def stow(self) -> None:
        """Put what was sorted into the buffers; `ring` wakes the deliverers."""
        for deliverer in self.deliverers.values():
            if deliverer.inbox:
                deliverer.stow()
                self._unrung.append(deliverer)

    def ring(self) -> None:
        """Wake the deliverers that `stow` had something for.

        Called just before the reader waits. Before that, they would only compete with the reader
        for the interpreter's lock.
        """
        while self._unrung:
            self._unrung.pop().ring()

    def counts(self) -> Mapping[str, int]:
        """Return how many notifications arrived on each registered channel; for any thread."""
        registry = self._registry()
        found = {_name(relname): tally.count for relname, tally in self._tallies.copy().items()}
        return {name: count for name, count in sorted(found.items()) if name in registry}

    def _forget_tallies(self, registry: Registry) -> None:
        """Forget the counts of removed channels if there are many of them."""
        if len(self._tallies) > 2 * len(registry) + SPARE:
            kept = {name: one for name, one in self._tallies.items() if _name(name) in registry}
            self._tallies = kept

    def _logging(self, notifies: Callable[[], PGnotify | None]) -> Callable[[], PGnotify | None]:
        """Return a source that logs each notification, without its payload: that may be secret."""

        def logged() -> PGnotify | None:
            arrived = notifies()
            if arrived is not None and (name := _name(_channel_of(arrived))) not in self.own:
                lanes = self._registry().lanes(name)
                ids = [binding.id for _, bindings in lanes for binding in bindings]
                size = len(arrived.extra)
                logger.debug(
                    "received %s on channel %r for %s",
                    count(size, "byte"),
                    name,
                    ", ".join(map(repr, ids)) or "nobody",
                    extra=about("received", channel=name, size=size, subscriptions=ids),
                )
            return arrived

        return logged

    def _take_own(self, arrived: PGnotify, received_at: datetime, proven_at: Moment) -> int:
        """Take what arrived on an `own` channel; return how many notifications it stands for."""
        if self.on_question is not None and arrived.relname == QUESTIONS.encode():
            self.on_question(arrived.extra, arrived.be_pid)
            return 0
        if arrived.relname != REFERENCES.encode():
            self._note_echo(arrived.extra, arrived.be_pid)
            return 0
        found = parse_reference(arrived.extra)
        if found is None or _name(found[1]) not in self._registry():  # or anybody could add routes
            return 0
        reference, relname = found
        channel, lanes, tally = self._routes.get(relname) or self._route(relname)
        tally.count += 1
        given = (arrived.be_pid, received_at, proven_at, reference)
        for deliverer, bindings in lanes:
            deliverer.inbox.append(ReferenceItem(channel, bindings, b"", *given))
        return 1

    def _note_echo(self, token: bytes, pid: int) -> None:
        """Keep what arrived on the private channel: only a few, in case somebody knows its name."""
        if len(token) <= ECHO_BYTES:
            self.echoes[token.decode("ascii", "replace")] = pid
            if len(self.echoes) > ECHOES:
                del self.echoes[next(iter(self.echoes))]

    @property
    def is_stuck(self) -> bool:
        """Whether something is to be tried again: to start a deliverer, or to end one."""
        return bool(self._unstarted or self._retiring or self._to_retire)

    def resume(self) -> bool:
        """Try to start the deliverers that no thread could be started for; return whether all run.

        It does nothing in a finalizer that has interrupted this very code.
        """
        if is_held_here(self.making):
            return True
        with self.making:
            self._start_all()
            return not self._unstarted

    def retire(self, dispatchers: Iterable[Dispatcher]) -> None:
        """Have the deliverers of dispatchers end once they have nothing to do; for any thread.

        Those that have a subscription again by then stay.
        """
        self._to_retire.extend(dispatchers)

    def end_retired(self) -> None:
        """Remove the deliverers that were to end and have nothing left to do."""
        while self._to_retire:
            self._retiring.add(self._to_retire.popleft())
        self._retiring &= self.deliverers.keys()
        if not self._retiring:
            return
        with self.making:
            used = self._find_used(self._retiring)
            for one in used:
                self.deliverers[one].stay()
            self._retiring -= used
            gone = {one for one in self._retiring if self.deliverers[one].retire()}
            self._retiring -= gone
            self.ended = self.ended.plus(map(self.deliverers.__getitem__, gone))
            self.deliverers = {d: one for d, one in self.deliverers.items() if d not in gone}
        self._routes.clear()  # they refer to these deliverers
        self._routed = None

    def _find_used(self, dispatchers: Container[Dispatcher]) -> set[Dispatcher]:
        registry = self._registry()
        used = (one.dispatcher for name in registry for one in registry.bindings(name))
        return {one for one in used if one in dispatchers}

    def start_deliverers(self, channels: Iterable[str]) -> None:
        """Start the deliverers of channels that are about to be listened to.

        The first notification would be too late: the main program may have ended by then, and
        Python 3.12.0 and 3.12.1 start no threads after that. A deliverer that can't be started now
        is started later: see `resume`.
        """
        registry = self._registry()
        for channel in channels:
            for dispatcher, _ in registry.lanes(channel):
                self.deliverer_for(dispatcher)

    def forget_leaving(self) -> None:
        """Make new routes: some removed channels aren't listened to any more."""
        self._routed = None

    def is_full(self) -> bool:
        """Return whether some buffer is full, so that nothing more should be read."""
        return any(deliverer.buffer.full for deliverer in self.deliverers.values())

    def has_missed(self) -> bool:
        """Return whether something was dropped that is still to be reported."""
        return any(deliverer.buffer.has_missed for deliverer in self.deliverers.values())

    def is_overfull(self) -> bool:
        """Return whether some buffer is so far over its bound that nothing more may be added."""
        return any(deliverer.buffer.overfull for deliverer in self.deliverers.values())

    def _look_up_registry(self) -> None:
        """Forget the routes if the registry has changed since they were made."""
        registry = self._registry()
        if registry is not self._routed:
            self._routes.clear()
            self._routed = registry
            # A subscription made after a channel's removal mustn't get what was sent before it.
            self._leaving = self._find_leaving()
            self._forget_tallies(registry)
        elif self._relayed:
            self._forget_relayed()

    def _route(self, relname: bytes) -> Route:
        assert self._routed is not None
        # A removed channel has no lanes, so its notifications aren't delivered.
        channel = _name(relname)
        found = () if channel in self._leaving else self._routed.lanes(channel)
        lanes = tuple(lane for d, bindings in found for lane in self._lanes(d, bindings, relname))
        tally = self._tallies.setdefault(relname, _Tally())
        route = self._routes[relname] = (channel, lanes, tally)
        return route

    def _lanes(
        self, dispatcher: Dispatcher, bindings: tuple[Binding, ...], relname: bytes
    ) -> list[tuple[Deliverer, tuple[Binding, ...]]]:
        """Return where a dispatcher's bindings are delivered.

        A binding may be the successor of an earlier one. While something still waits for the
        earlier one, new notifications go through its deliverer too, so that they stay in order.
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
            lanes.append((self.deliverer_for(dispatcher), tuple(direct)))
        return lanes

    def _forget_relayed(self) -> None:
        """Forget the routes that led through an earlier binding's deliverer."""
        for relname in self._relayed:
            self._routes.pop(relname, None)
        self._relayed.clear()

    def deliverer_for(self, dispatcher: Dispatcher) -> Deliverer:
        """Return the deliverer of a dispatcher, which is made if there is none; any thread."""
        with self.making:  # a deliverer also calls this, to hand something on to another one
            found = self.deliverers.get(dispatcher)
            if found is None:
                found = self._make_deliverer(dispatcher)
                found.succession.find = self.deliverer_for
                self._unstarted.append(found)
                self.deliverers = {**self.deliverers, dispatcher: found}  # others iterate over it
                self._on_deliverer(found)
            if self._unstarted:
                self._start_all()
            return found

    def _start_all(self) -> None:
        """Start the deliverers that aren't running; what arrives for them waits until they are."""
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


def _channel_of(arrived: PGnotify) -> bytes:
    """Return the channel that a notification is for."""
    if arrived.relname == REFERENCES.encode() and (found := parse_reference(arrived.extra)):
        return found[1]
    return arrived.relname


def _name(relname: bytes) -> str:
    return relname.decode("utf-8", "surrogateescape")
