"""A flight: log entries that were read together and are being delivered."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pgnotifier._connection.encoding import Encoding
from pgnotifier._delivery.intake import EntryItem, PortionItem
from pgnotifier._delivery.portions import Portion, Row
from pgnotifier._durable.receipt import Ledger, SharedReceipt
from pgnotifier._durable.rows import Failed, Place, Window
from pgnotifier._log.dead_letters import Failure
from pgnotifier._runtime.clock import Moment
from pgnotifier.dispatch import Binding
from pgnotifier.durability import Durability

FIRST_RETRY = 1.0
LAST_RETRY = 600.0
"""Seconds before the first and the last retry of an entry; they double in between."""
MANY = 10
"""If more entries than this are read together, others are probably about to come."""
FLOOD_PAUSE = 0.015
"""Seconds between two reads then: each costs the server as much as several publications."""


@dataclass(frozen=True, slots=True)
class Flight:
    """Entries that were handed over together.

    Attributes:
        rows: The entries, in order.
        ledger: Which of them are settled.
        window: Where they were read; None if they are retried.
        is_rest: Whether there were no more in that window.
        is_void: Whether the log that they were read from was replaced by another one, or the
            position was moved. Nothing more of it is saved, but it has to end before others begin.
    """

    rows: Sequence[Row]
    ledger: Ledger
    window: Window | None
    is_rest: bool
    is_void: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be settled."""
        return self.ledger.is_done or self.ledger.is_lost

    @property
    def is_followed(self) -> bool:
        """Whether there was more to read after these entries, as far as was known."""
        return not self.is_rest or (self.window is not None and not self.window.is_now)

    @property
    def pause(self) -> float:
        """How many seconds after these entries to look for more, at the earliest."""
        return FLOOD_PAUSE if len(self.rows) > MANY and not self.is_followed else 0.0

    @property
    def head(self) -> Sequence[Row]:
        """The entries before the first that isn't settled."""
        left = self.ledger.left
        at = next((at for at, row in enumerate(self.rows) if row.id in left), len(self.rows))
        return self.rows[:at]

    @property
    def end(self) -> Place:
        """The position after all its entries."""
        found = self.place_after(self.rows)
        assert found is not None
        return found

    def place_after(self, head: Sequence[Row]) -> Place | None:
        """Return the position after these first entries; None if it hasn't changed.

        Args:
            head: The first of its rows.
        """
        assert self.window is not None
        if len(head) == len(self.rows) and self.is_rest:
            return Place(self.window.target)
        return Place(self.window.done, self.window.target, head[-1].id) if head else None

    def after(self, head: Sequence[Row]) -> "Flight":
        """Return the flight of the entries that come after its first ones."""
        return replace(self, rows=self.rows[len(head) :])

    def failed(self, rows: Sequence[Row], durability: Durability) -> Iterator[Failed]:
        """Yield those that have failed, each with the reason and with what to do next."""
        for row in rows:
            reason = self.ledger.failures.get(row.id)
            if reason is not None:
                attempts = row.attempts + 1
                is_dead = (
                    durability.on_failure == "dead_letter" and attempts >= durability.max_attempts
                )
                pause = retry_pause(attempts)
                yield row, Failure(reason.error, reason.traceback, pause, is_dead)


def launch(
    rows: Sequence[Row],
    binding: Binding,
    hand_over: Callable[[Sequence[EntryItem]], object],
    on_settled: Callable[[], object],
    encoding: Encoding,
    window: Window | None = None,
    *,
    is_rest: bool = False,
) -> Flight:
    """Hand entries over, and return their flight.

    Args:
        rows: The entries, in order.
        binding: The subscription.
        hand_over: Gives them to the deliverer. What that doesn't take is lost, and read again.
        on_settled: Called on any thread, once all are settled or lost.
        encoding: The database's.
        window: Where they were read.
        is_rest: Whether there were no more in that window.
    """
    ledger = Ledger([row.id for row in rows], on_settled)
    receipt = SharedReceipt(ledger, binding.mutes)
    dispatcher = binding.dispatcher
    items = (
        _keep_together(rows, binding, receipt)
        if dispatcher.is_relay and not dispatcher.decodes and encoding.name == "UTF8"
        else _make_items(rows, binding, receipt, encoding)
    )
    del receipt  # from here on, the items alone refer to it
    hand_over(items)
    return Flight(rows, ledger, window, is_rest)


def _make_items(
    rows: Sequence[Row], binding: Binding, receipt: SharedReceipt, encoding: Encoding
) -> Sequence[EntryItem]:
    received_at, moment = datetime.now(UTC), Moment.now()
    channel = binding.subscription.channel
    return [
        EntryItem(
            channel,
            (binding,),
            encoding.to_utf8(row.payload),
            0,
            received_at,
            moment,
            id=row.id,
            key=None if row.key is None else encoding.decode(row.key),
            published_at=row.published_at,
            attempt=row.attempts + 1,
            receipt=receipt,
        )
        for row in rows
    ]


def _keep_together(
    rows: Sequence[Row], binding: Binding, receipt: SharedReceipt
) -> Sequence[EntryItem]:
    now = datetime.now(UTC)
    portion = Portion(binding, rows, now, receipt)
    channel = binding.subscription.channel
    return [PortionItem(channel, (binding,), b"", 0, now, Moment.now(), portion=portion)]


def retry_pause(attempts: int) -> float:
    """Return the seconds to wait after a number of attempts."""
    return float(min(LAST_RETRY, FIRST_RETRY * 2 ** min(attempts - 1, 20)))
