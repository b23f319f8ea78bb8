"""Where `pgnotifier tail` gets its notifications: from a notifier, or from the durable log."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._log.following import Followed, LogFollower
from pgnotifier._runtime.backoff import Backoff
from pgnotifier.cli.tail.inbox import Cut, Inbox, Loss
from pgnotifier.dispatch import Batch, Dispatcher, Subscription
from pgnotifier.errors import PgNotifierError, in_one_line
from pgnotifier.notification import Entry, Gap
from pgnotifier.notifier import Notifier
from pgnotifier.payload import decode_bytes
from pgnotifier.status import StateChange

BUFFER = 20_000
"""How many notifications wait for a slow output before the oldest ones are dropped."""
BUFFER_BYTES = 32 << 20
POLL = 0.25
"""Seconds between two polls of the log. Asking to be woken would make publishing slower."""


class Feed(Protocol):
    """Fills an inbox with events."""

    def start(self) -> None:
        """Connect, and begin to fill the inbox.

        Raises:
            PgNotifierError: The database can't be read.
        """
        ...

    def stop(self) -> None:
        """End, within a second or so. The inbox is closed already."""
        ...

    def pause(self) -> None:
        """Have the server keep nothing, as the process is about to stop."""
        ...

    def resume(self) -> None:
        """Go on.

        Raises:
            PgNotifierError: The database can't be read any more.
        """
        ...


class Tap(Dispatcher):
    """Puts what arrives into an inbox."""

    starts_listener = False
    batch_size = 500

    def __init__(self, inbox: Inbox) -> None:
        """Take the inbox."""
        self._inbox = inbox

    def bind(self, subscription: Subscription) -> None:
        """Accept any subscription."""

    def dispatch(self, batch: Batch) -> None:
        """Hand a batch over; wait until there is room."""
        found = batch.rest()
        self._inbox.put([one.notification for one in found])
        batch.done(len(found))


class NotifierFeed:
    """Listens to channels, with a notifier of its own.

    Its reader never pauses: if the output is too slow, notifications are dropped, so that the
    server doesn't have to keep them.
    """

    def __init__(self, parameters: Parameters, channels: Sequence[str], inbox: Inbox) -> None:
        """Prepare the notifier.

        Args:
            parameters: How to connect.
            channels: The channels.
            inbox: Gets notifications, losses and cuts.
        """
        self._inbox = inbox
        self._dropped = 0
        self._notifier = Notifier(
            parameters,
            dispatcher=Tap(inbox),
            daemon=True,
            autorun=False,
            answers=False,  # it isn't a listener that delivers anything
            on_gap=self._on_gap,
            on_state=self._on_state,
            buffer_size=BUFFER,
            buffer_bytes=BUFFER_BYTES,
            overflow="drop_oldest",
        )
        for channel in channels:
            self._notifier.subscribe("tail", channel, _deliver_nothing, autorun=False)

    def start(self) -> None:
        """Listen to all channels."""
        self._notifier.start()

    def stop(self) -> None:
        """Stop listening."""
        self._notifier.stop(1.0)

    def pause(self) -> None:
        """Stop listening."""
        self._notifier.stop(1.0)

    def resume(self) -> None:
        """Listen again."""
        self._dropped = 0  # a notifier counts from its start on
        self._notifier.start()

    def _on_gap(self, gap: Gap) -> None:
        dropped = sum(one.dropped for one in self._notifier.status().dispatchers)
        missed, self._dropped = dropped - self._dropped, dropped
        channels = tuple(sorted(gap.channels))
        reason = "the output is too slow" if missed else gap.reason
        loss = Loss(gap.since, gap.until, reason, channels, missed or None, was_cut=not missed)
        self._inbox.put([loss])

    def _on_state(self, change: StateChange) -> None:
        if change.state == "disconnected":
            self._inbox.put([Cut(change.since, change.why or "")])


class LogFeed:
    """Reads the durable log, in a thread of its own, without a subscription."""

    def __init__(
        self,
        parameters: Parameters,
        channels: Sequence[str],
        inbox: Inbox,
        start: datetime | timedelta | int | str,
    ) -> None:
        """Prepare the thread.

        Args:
            parameters: How to connect.
            channels: The channels.
            inbox: Gets entries, losses and cuts.
            start: As for `LogFollower`.
        """
        self._parameters = parameters
        self._channels = tuple(channels)
        self._inbox = inbox
        self._follower = LogFollower(channels, start)
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="pgnotifier-tail", daemon=True)

    def start(self) -> None:
        """Find the place in the log, and read from there on."""
        self._connect()
        self._thread.start()

    def stop(self) -> None:
        """Wait for the thread."""
        if self._thread.is_alive():
            self._thread.join(1.0)

    def pause(self) -> None:
        """Do nothing: between two queries, the server keeps nothing."""

    def resume(self) -> None:
        """Do nothing: the thread goes on with the process."""

    def _connect(self) -> None:
        connection = self._parameters.connect()
        try:
            self._follower.use(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _run(self) -> None:
        try:
            while not self._inbox.is_closed:
                try:
                    self._read()
                except psycopg.Error as exc:
                    if self._connection is None or not self._connection.closed:
                        raise
                    self._reconnect(in_one_line(exc))
        except Exception as exc:  # noqa: BLE001 - raised in the main thread
            self._inbox.fail(exc)
        finally:
            if self._connection is not None:
                self._connection.close()

    def _read(self) -> None:
        for some in self._follower.read():
            if not self._inbox.put([_make_entry(one) for one in some]):
                return
        follower, now = self._follower, datetime.now(UTC)
        if follower.missed is not None:
            first, last = follower.missed
            follower.missed = None
            reason = f"the log has no entries {first} to {last} any more"
            self._inbox.put([Loss(now, now, reason, self._channels, was_cut=False)])
        self._inbox.pause(POLL)

    def _reconnect(self, why: str) -> None:
        since, backoff = datetime.now(UTC), Backoff()
        self._inbox.put([Cut(since, why)])
        while not self._inbox.is_closed:
            try:
                self._connect()
            except (PgNotifierError, psycopg.Error):
                self._inbox.pause(backoff.pause())
                continue
            reason = "nothing is missing: the log was read on"
            if self._follower.was_reset:
                self._follower.was_reset = False
                reason = "the server has an older log now: reading goes on from the present"
            self._inbox.put([Loss(since, datetime.now(UTC), reason, self._channels)])
            return


def _make_entry(one: Followed) -> Entry:
    text = one.data.decode("utf-8", "surrogateescape")
    return Entry(
        one.channel,
        decode_bytes(one.data),
        text,
        0,
        datetime.now(UTC),
        id=one.id,
        key=one.key,
        published_at=one.published_at,
    )


def _deliver_nothing(*_: object) -> None:
    """Stand in for a callback, because a subscription needs one."""
