"""A source: the thread that reads the log for the durable subscriptions of one dispatcher."""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.wakeup import Waiter
from pgnotifier._delivery.buffer import GapMarker, Trouble
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.intake import EntryItem
from pgnotifier._durable.describing import describe
from pgnotifier._durable.dropping import ReportDropped
from pgnotifier._durable.flight import MANY
from pgnotifier._durable.leftovers import Identity, end_leftover, identify
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.patience import ImpatientConnection
from pgnotifier._durable.pooling import check_pooler
from pgnotifier._durable.progress import Progress
from pgnotifier._durable.sharing import Sharing
from pgnotifier._durable.strays import Strays
from pgnotifier._durable.translating import translate
from pgnotifier._durable.upkeep import Upkeep
from pgnotifier._log.positions import limit_lag
from pgnotifier._registry.change import Key  # noqa: TC001
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.backoff import Backoff
from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier._runtime.sync import Outcome
from pgnotifier.dispatch import Binding, Dispatcher
from pgnotifier.errors import (
    LogNotInstalledError,
    LogRefusedError,
    NotifierStoppedError,
    NotListeningError,
    PgNotifierError,
    in_one_line,
)
from pgnotifier.status import DurableStatus, LogState

logger = logging.getLogger("pgnotifier.durable")

FIRST_POLL = 0.005
LAST_POLL = 5.0
"""The longest pause between two polls of an empty log; it doubles up to that. What the bell isn't
rung for is late by no more."""
PATIENCE = 0.02
"""Seconds for which a source that waits for its own batch doesn't have the bell rung."""
RING_PAUSE = 0.03
"""Seconds for which a source that the bell has woken in vain doesn't have it rung again: another
replica may be handling all that is published."""
BUSY_POLL = 1.0
"""The longest pause while nothing could be read at once anyway, so that the bell isn't rung."""
END_CHECK = 0.01
"""Seconds between two looks, at the end, whether the deliverer has ended."""


class Source:
    """Reads for one dispatcher, so that a slow one holds up its own subscriptions only.

    Other threads call `start`, `request`, `stop`, `join` and `forget_in_child`; the thread calls
    what begins with an underscore.

    Attributes:
        ready: Settled once each subscription has a position, or the log can't be read.
        progress: The progress of its subscriptions. Replaced, never changed in place.
        trouble: Since when it can't read, and why.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        parameters: Parameters,
        registry: Callable[[], Registry],
        hand_over: Callable[[Dispatcher, Sequence[EntryItem] | GapMarker], Deliverer | None],
        may_retire: Callable[[Dispatcher], bool],
        patience: float,
        report_dropped: ReportDropped,
        warned: dict[str, object],
    ) -> None:
        """Make a source that isn't running yet.

        Args:
            dispatcher: The dispatcher.
            parameters: Where to connect.
            registry: Returns the current registry of durable subscriptions.
            hand_over: Gives entries to the dispatcher's deliverer, and returns that; None if
                nothing may be delivered any more.
            may_retire: Called when it has no subscription left; returns whether it is to end.
            patience: The seconds within which the server has to answer.
            report_dropped: Logs and reports what a subscription has missed.
            warned: The channels that were warned about: see `Strays`.
        """
        self.dispatcher = dispatcher
        self.ready = Outcome()
        self.progress: dict[Key, Progress] = {}
        self.trouble = Trouble()
        self._parameters = parameters
        self._registry = registry
        self._give = hand_over
        self._may_retire = may_retire
        self._patience = patience
        self._known: Registry | None = None
        self._latest_run: object = None
        self._deliverer: Deliverer | None = None
        self._asked: deque[Outcome] = deque()
        self._waiter = Waiter()
        self._stop_at: float | None = None
        self._is_moving = False
        self._report_dropped = report_dropped
        self._upkeep = Upkeep()
        self._sharing = Sharing()
        self._left: Identity | None = None  # the latest session
        self._strays = Strays(warned)
        self._backoff = Backoff()
        self._warn = LogThrottle(logger)
        name = f"pgnotifier-log-{type(dispatcher).__name__}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    # --- called by any thread ---

    @property
    def log_state(self) -> LogState | None:
        """How large the log is, and what holds it back, as it was known a moment ago."""
        return self._upkeep.log_state

    def describe(self) -> Iterator[DurableStatus]:
        """Yield the status of each subscription, as it was known a moment ago."""
        for (name, channel), one in self.progress.items():
            yield describe(one, name, channel, self.trouble)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: It can't be.
        """
        self.thread.start()

    def request(self) -> Outcome:
        """Have it look at the registry; the outcome is settled once new subscriptions are read."""
        done = Outcome()
        self._asked.append(done)
        self._waiter.wake()
        return done

    def stop(self, deadline: float) -> None:
        """Have it read no more, save what is settled until a deadline, and end.

        If a callback of its deliverer calls this, the deadline doesn't apply.
        """
        deliverer = self._deliverer
        is_own = deliverer is not None and deliverer.is_current()
        self._stop_at = math.inf if is_own else deadline
        self._waiter.wake()

    def reconnect(self) -> None:
        """Have it go on with a new connection. What is under way isn't affected."""
        self._is_moving = True
        self._waiter.wake()

    def waits_for_caller(self) -> bool:
        """Return whether it ends only once the calling callback has returned."""
        return self._stop_at == math.inf

    def forget_in_child(self) -> None:
        """Close what wakes the parent's thread, in a forked child."""
        self._waiter.close()

    # --- the thread ---

    def _run(self) -> None:
        try:
            while self._stop_at is None and not self._has_retired():
                self._connect_and_serve()
        finally:
            self._end()

    def _has_retired(self) -> bool:
        return not self.progress and self.ready.is_open and self._may_retire(self.dispatcher)

    def _end(self) -> None:
        if self._deliverer is not None:
            self._deliverer.intake.is_open = False
        stopped = NotifierStoppedError("the notifier was stopped")
        if not self.ready.is_open:
            self.ready.settle(stopped)
        while self._asked:
            self._asked.popleft().settle(stopped)
        self._waiter.close()

    def _connect_and_serve(self) -> None:
        """Read until the connection is lost; then pause."""
        connection: psycopg.Connection[Any] | None = None
        why: Exception
        try:
            connection = self._parameters.connect(kind=ImpatientConnection)
            if isinstance(connection, ImpatientConnection):
                connection.patience = self._patience
            self._strays.begin()
            session = LogSession(connection, self._strays.note)
            check_pooler(
                session,
                self._parameters,
                self._waiter,
                self._patience,
                lambda: self._stop_at is not None,
            )
            session.prepare()
            if self._left is not None:
                end_leftover(connection, self._left)
            self._left = identify(connection)
            if session.run != self._latest_run:
                for one in self.progress.values():
                    one.begin_again()
                self._latest_run = session.run
            self._serve(session)
        except psycopg.Error as exc:
            why = translate(exc, self._parameters)
        except PgNotifierError as exc:
            why = exc
        except Exception as exc:
            logger.exception("a defect of pgnotifier; starting over", extra=about("defect"))
            why = exc
        else:
            return
        finally:
            for one in self.progress.values():
                one.disconnect()
            if connection is not None:
                self._waiter.unwatch()
                connection.close()
        self._note_trouble(why)
        self._waiter.pause(self._backoff.pause())

    def _note_trouble(self, exc: Exception) -> None:
        why = in_one_line(exc)
        self.trouble = Trouble(self.trouble.since or datetime.now(UTC), why)
        # Those who wait get the error, as a new connection won't help.
        if isinstance(exc, LogNotInstalledError | LogRefusedError | NotListeningError):
            if not self.ready.is_open:
                self.ready.settle(exc)
            while self._asked:
                self._asked.popleft().settle(exc)
        self._warn(
            "can't read the log for %s (%s); trying again",
            type(self.dispatcher).__name__,
            why,
            extra=about(
                "log_unreadable",
                dispatcher=type(self.dispatcher).__name__,
                error=type(exc).__name__,
            ),
        )

    def _serve(self, session: LogSession) -> None:
        """Read for as long as the connection works."""
        poll, busy_until, has_rung = FIRST_POLL, 0.0, False
        while self._stop_at is None:
            self._look_up(session)
            if self._is_moving:
                for one in self.progress.values():
                    one.save(session)
                self._is_moving = False
                return
            if self.ready.is_open and self._has_retired():
                return
            self._upkeep.look(session, self.progress.values())
            session.has_rung()  # a ring that has arrived is for something that is read now
            if self._sharing.visit_all(session, self.progress.values()):
                if has_rung and not self._is_flooded:
                    self._wait(session, FIRST_POLL, for_bell=False)  # the deliverer goes first
                else:
                    session.wake_up()
                poll, busy_until, has_rung = FIRST_POLL, monotonic() + PATIENCE, False
            elif not any(one.awaits_entries for one in self.progress.values()):
                if poll > FIRST_POLL:
                    session.wake_up()
                self._wait(session, poll, for_bell=False)
                poll, has_rung = min(2 * poll, BUSY_POLL), False
            elif monotonic() < busy_until and self._is_busy:
                self._wait(session, busy_until - monotonic())
            elif monotonic() < busy_until and self._is_flooded:
                self._waiter.pause(FIRST_POLL)
            elif has_rung:  # for other readers
                session.wake_up()
                self._wait(session, RING_PAUSE)
                has_rung = False
            elif not session.is_dozing:
                session.doze()  # and look once more: something may have been published just now
            else:
                has_rung = self._wait(session, poll)
                poll = FIRST_POLL if has_rung else min(2 * poll, LAST_POLL)
        self._finish(session)

    @property
    def _is_busy(self) -> bool:
        return any(one.is_busy for one in self.progress.values())

    @property
    def _is_flooded(self) -> bool:
        # The bell, if it were on, would be rung by each of the publishers that work now.
        return any(one.latest > MANY for one in self.progress.values())

    def _look_up(self, session: LogSession) -> None:
        """Give each new subscription a position, and forget removed ones."""
        asked, self._asked = self._asked, deque()
        try:
            registry = self._registry()
            if registry is not self._known or any(p.sub is None for p in self.progress.values()):
                self._update(session, registry)
                self._known = registry
            if any(one.is_gone for one in self.progress.values()):
                self.progress = {k: one for k, one in self.progress.items() if not one.is_gone}
        except BaseException:
            self._asked.extendleft(reversed(asked))
            raise
        self._strays.watch((channel for _, channel in self.progress), session.listen)
        if self.trouble.since is not None:
            self.trouble = Trouble()
            name = type(self.dispatcher).__name__
            logger.info(
                "reads the log for %s again", name, extra=about("log_readable", dispatcher=name)
            )
        self._backoff = Backoff()
        if not self.ready.is_open:
            self.ready.settle()
        for one in asked:
            one.settle()

    def _update(self, session: LogSession, registry: Registry) -> None:
        wanted: dict[Key, Binding] = {
            (binding.id, name): binding
            for name in registry
            for binding in registry.bindings(name)
            if binding.dispatcher is self.dispatcher
        }
        progress = dict(self.progress)
        for key, binding in wanted.items():
            if key not in progress:
                progress[key] = Progress(
                    binding, self._hand_over, self._waiter.wake, self._report_dropped
                )
        for key, one in progress.items():
            found = wanted.get(key)
            # Its position may have been forgotten between two subscriptions.
            if found is not None and (found is not one.wanted or one.sub is None):
                subscription = found.subscription
                assert subscription.durability is not None
                sub = session.subscribe(
                    str(subscription.id),
                    subscription.channel,
                    subscription.durability.start,
                )
                limit_lag(session.connection, sub, subscription.durability.max_lag)
                one.become(sub)
            one.wanted = found
        self.progress = progress

    def _hand_over(self, items: Sequence[EntryItem] | GapMarker) -> None:
        deliverer = self._give(self.dispatcher, items)
        if deliverer is not None:
            self._deliverer = deliverer

    def _wait(self, session: LogSession, longest: float, *, for_bell: bool = True) -> bool:
        """Wait until there is something to do; return whether that is because the bell has rung."""
        until, is_woken = monotonic() + self._shorten(longest), False
        while True:
            # Before the first wait as well: what came during a query isn't in the socket any more.
            if session.has_rung() and for_bell:
                return True
            left = until - monotonic()
            if self._strays.warn() or is_woken or session.is_offered or left <= 0:
                return False
            is_woken = self._waiter.wait(left, session.connection.fileno())

    def _shorten(self, longest: float) -> float:
        """Return the seconds until a subscription is due, but not more than that."""
        now = monotonic()
        due = min((one.due_at - now for one in self.progress.values()), default=longest)
        return max(0.0, min(longest, due))

    def _finish(self, session: LogSession) -> None:
        """Save what is settled until the deliverer has ended, or the time is over."""
        deliverer = self._deliverer
        while deliverer is not None and deliverer.thread.is_alive():
            assert self._stop_at is not None
            if monotonic() >= self._stop_at:
                break
            self._waiter.pause(END_CHECK)
        for one in self.progress.values():
            one.end(session)
