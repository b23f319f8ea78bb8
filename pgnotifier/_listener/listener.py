"""The listener: the reader thread, which owns the connection, and its deliverers."""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic, sleep

from pgnotifier._connection.connecting import is_connecting_here
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import ConnectionLostError
from pgnotifier._delivery.buffer import REPORT_PAUSE
from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._delivery.reports import GapReport
from pgnotifier._inquiry.answering import Answering
from pgnotifier._listener.commands import Commands, Verb
from pgnotifier._listener.gaps import Gaps
from pgnotifier._listener.heartbeat import Heartbeat
from pgnotifier._listener.leadership import Leadership
from pgnotifier._listener.listening import Listening
from pgnotifier._listener.queue_usage import QueueUsage
from pgnotifier._listener.reader_connection import ReaderConnection, StoppingError
from pgnotifier._listener.router import Router
from pgnotifier._listener.state import StateReport
from pgnotifier._registry.registry import Registry
from pgnotifier._runtime.clock import Moment
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.sync import Gate, Outcome, is_held_here
from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import ConnectionFailedError, NotifierStoppedError, PgNotifierError
from pgnotifier.settings import Overflow

logger = logging.getLogger("pgnotifier.listener")

START_TIMEOUT = 1.0
"""Seconds in which `stop()` tries to start deliverers that no thread could be started for."""
START_PAUSE = 0.05
"""Seconds between two tries."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a listener listens, and the bounds of each dispatcher's buffer.

    Attributes:
        heartbeat: Seconds without anything after which an idle connection is tested.
        heartbeat_timeout: Seconds within which that test has to succeed.
        buffer_size: How many notifications may wait for one dispatcher.
        buffer_bytes: How many bytes of payloads may wait for one dispatcher.
        overflow: What happens to more notifications than that.
        standby: The name that several listeners share if only one of them is to listen.
        waits: Whether to retry until the server can be reached for the first time.
    """

    heartbeat: float
    heartbeat_timeout: float
    buffer_size: int
    buffer_bytes: int
    overflow: Overflow
    standby: str | None = None
    waits: bool = False


class Listener:
    """From `start()` to `stop()`: one reader, one connection, one deliverer per dispatcher.

    Other threads ask the reader thread for changes through `_commands`.

    Attributes:
        ready: Settled once the reader listens, or has failed to.
        ended: Opens when the reader has ended.
        started: When it was made.
        router, connection, listening, queue_usage: The reader's parts; others may read them.
    """

    def __init__(
        self,
        parameters: Parameters,
        registry: Callable[[], Registry],
        deliverer: Callable[[Dispatcher, Callable[[], None]], Deliverer],
        report_gap: GapReport,
        report_state: StateReport,
        settings: Settings,
        answering: Answering | None = None,
    ) -> None:
        """Make a listener that isn't running yet.

        Args:
            parameters: Where to connect.
            registry: Returns the current registry.
            deliverer: Makes the deliverer of a dispatcher, given what to call once a full
                buffer has room.
            report_gap: Is called with each gap.
            report_state: Is called with each state.
            settings: How to listen.
            answering: Answers questions about it. It gets those that are read, and looks for them
                itself during a pause. None: there are no answers.
        """
        self.started = Moment.now()
        self.ready = Outcome()
        self.ended = Gate()
        self._parameters = parameters
        self._report_gap = report_gap
        self._state = report_state
        self._waits = settings.waits
        self._stopping = False
        self._commands = Commands()
        self._gaps = Gaps(report_gap, registry, lambda: self.router.deliverers)
        self.router = Router(
            registry,
            lambda dispatcher: deliverer(dispatcher, self.connection.wake),
            lambda: self._commands.channels("unlisten"),
            self._gaps.hold_new,
            None if answering is None else answering.note,
        )
        self.connection = ReaderConnection(
            parameters,
            self.router,
            settings.heartbeat,
            settings.heartbeat_timeout,
            lambda: self._stopping,
            None if answering is None else answering.watch,
        )
        self._heartbeat = Heartbeat(self.connection)
        self.queue_usage = QueueUsage(self.connection.ask)
        self._leadership = (
            None
            if settings.standby is None
            else Leadership(self.connection, self._heartbeat, settings.standby)
        )
        self.listening = Listening(
            registry, self._commands, self.connection, self._leadership, self._gaps, report_state
        )
        self._thread = threading.Thread(target=self._run, name="pgnotifier-reader", daemon=True)
        self._starter: int | None = threading.get_ident()  # until the reader runs

    # --- called by any thread ---

    def start(self) -> None:
        """Start the reader; `ready` is settled once it listens, or has failed to.

        Raises:
            ConnectionFailedError: No thread can be started.
        """
        if self._stopping:  # `stop()` was called before this
            self.end(NotifierStoppedError("the notifier was stopped"))
            return
        self._state.become("starting")
        try:
            self._thread.start()
        except RuntimeError as exc:
            raise ConnectionFailedError(
                f"can't listen, because no thread can be started: {exc}"
            ) from exc
        self._starter = None

    def request(self, verb: Verb, channels: Iterable[str] = ()) -> Outcome:
        """Queue a command, and return its outcome, which is settled once the change is live."""
        done = self._commands.ask(verb, channels)
        self.connection.wake()
        return done

    def retire(self, dispatchers: Iterable[Dispatcher]) -> None:
        """Have the deliverers of dispatchers end that have no subscription any more."""
        self.router.retire(dispatchers)
        self.connection.wake()

    @property
    def deliverers(self) -> Mapping[Dispatcher, Deliverer]:
        """The deliverers that run, by dispatcher."""
        return self.router.deliverers

    @property
    def is_alive(self) -> bool:
        """Whether the reader continues, connected or not."""
        return not (self._stopping or self.ended.is_open)

    @property
    def has_failed(self) -> bool:
        """Whether the reader has ended without `stop()`, as without a first connection."""
        return self.ended.is_open and not self._stopping

    def waits_for_caller(self) -> bool:
        """Return whether the reader can't continue before the calling code is done.

        That is so for code that the reader's own thread calls, such as log handlers; for `db_conf`,
        called for the parameters of a connection; for code that is called before the reader has
        started; and for a signal handler or a finalizer that has interrupted code that holds one
        of our locks.
        """
        reports, latest_hold = (self._report_gap, self._state), self._gaps.latest
        locks = (one.lock for one in (self._commands, *reports, latest_hold))
        return (
            self._thread is threading.current_thread()
            or is_connecting_here(self._parameters)
            or self._starter == threading.get_ident()
            or any(map(is_held_here, (self.router.making, *locks)))
            or any(one.is_locked_here for one in self.deliverers.values())
        )

    def delivering_here(self) -> list[threading.Thread]:
        """Return the threads that continue delivering once the calling callback has returned."""
        return [one.thread for one in self.deliverers.values() if one.is_current()]

    def stop(self, timeout: float) -> int:
        """End the reader, then deliver what was received, within a time in seconds.

        Returns:
            How many deliveries were given up.
        """
        deadline = monotonic() + timeout
        self._stopping = True
        self.connection.wake()
        if self._thread.ident and not self.waits_for_caller():
            self._thread.join(timeout)
        for deliverer in self.deliverers.values():
            deliverer.drain()  # all at once: each may need the whole time
        self._start_rest(deadline)
        undelivered, stopped = 0, set[Deliverer]()
        while left := [d for d in self.deliverers.values() if d not in stopped]:
            # A deliverer that hands something on to another dispatcher may make a new one.
            undelivered += sum(d.stop(deadline) for d in left)
            stopped.update(left)
        for deliverer in self.deliverers.values():
            deliverer.close_dispatcher()
        return undelivered

    def _start_rest(self, deadline: float) -> None:
        """Start the deliverers that couldn't be started: the reader's end has freed a thread."""
        latest = min(deadline, monotonic() + START_TIMEOUT)
        while not self.router.resume() and monotonic() < latest:
            sleep(START_PAUSE)  # the system counts a thread for a moment after it has ended

    def forget_in_child(self) -> None:
        """End the deliverers in a forked child, where no other thread of ours runs."""
        self.ended.open()
        for deliverer in self.deliverers.values():
            deliverer.forget_in_child()
        self.connection.forget_in_child()

    # --- the reader thread ---

    def _run(self) -> None:
        why: BaseException = NotifierStoppedError("the notifier was stopped")
        try:
            self.listening.connect_first(waits=self._waits)
            self.ready.settle()
            while True:
                self._serve()
        except StoppingError:
            self.connection.read_last()
        except PgNotifierError as exc:  # at the start only
            why = exc
        except BaseException as exc:
            logger.exception("the reader ended by a defect of pgnotifier", extra=about("defect"))
            why = exc
        finally:
            self.end(why)

    def end(self, why: BaseException) -> None:
        """End everything but the deliverers; called by the reader, or if it isn't started."""
        self._starter = None
        if self._leadership is not None:
            self._leadership.dismiss()
        self.connection.end()
        self._state.become("stopped")
        self.ended.open()
        if not self.ready.is_open:
            self.ready.settle(why)
        self._commands.close(why)
        self._gaps.report_dropped(self.deliverers.values(), at_once=True)
        for deliverer in self.deliverers.values():
            deliverer.drain()  # nobody calls `stop()` if the first connection couldn't be made

    def _serve(self) -> None:
        """Listen until the connection is lost, then replace it."""
        try:
            while True:
                self._turn()
        except ConnectionLostError as lost:
            reason = str(lost) or "the server closed the connection"
        except StoppingError:
            raise
        except PgNotifierError as exc:  # the server refused a query of ours
            reason = str(exc)
        except Exception as exc:
            # It is better to be disconnected for a moment, and report that, than to end.
            logger.exception(
                "a defect of pgnotifier; starting over with a new connection", extra=about("defect")
            )
            reason = f"internal error: {exc}"
        self.listening.reconnect(reason)

    def _turn(self) -> None:
        # A round trip may consume the wake-up of a command that is queued meanwhile. So commands
        # are looked for after the last round trip, before the reader waits.
        leads = self.listening.leads
        if leads and not self.router.is_full():
            self.queue_usage.look()
        self._run_commands()
        if self._leadership is not None:
            self._leadership.accompany(leads=leads)
        stuck = [one for one in (self._report_gap, self._state, self.router) if one.is_stuck]
        for one in stuck:
            one.resume()
        self.router.end_retired()
        if not leads:
            self._stand_by()
        elif self.router.is_full():
            self.connection.pause()  # whoever makes room wakes the reader
        else:
            self._receive(is_stuck=bool(stuck))

    def _stand_by(self) -> None:
        """Wait, then try to take the lead."""
        assert self._leadership is not None
        self.connection.wait(self._leadership.poll)
        self.connection.read()
        self.listening.try_to_take_over(self._leadership)

    def _receive(self, *, is_stuck: bool) -> None:
        """Wait for notifications, and read them; make the round trip that is due.

        Args:
            is_stuck: Whether something is to be tried again soon.
        """
        longest = math.inf
        if self._leadership is not None:
            longest = self._leadership.poll
            self._leadership.show_progress()
        if self.router.has_missed():
            is_stuck = True
            self._gaps.report_dropped(self.deliverers.values())
        # Last, as it wakes deliverers, and they can't run before the reader waits again.
        self.connection.receive(min(longest, REPORT_PAUSE) if is_stuck else longest)
        self._heartbeat.beat_if_due()

    def _run_commands(self) -> None:
        while (command := self._commands.first()) is not None:
            try:
                match command.verb:
                    case "listen":
                        self.listening.add(command.channels)
                    case "unlisten":
                        self.listening.remove(command.channels)
                    case "restart":
                        self.listening.move()
            except PgNotifierError as exc:
                self._commands.end([command], exc)
            else:
                self._commands.end([command])
