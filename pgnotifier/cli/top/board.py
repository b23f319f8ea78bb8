"""The data of `pgnotifier top`: the latest surveys, and the figures above the tables."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

from pgnotifier._inquiry.messages import Order, Verb
from pgnotifier._inquiry.report import ListenerReport, Survey
from pgnotifier.cli.printable import printable
from pgnotifier.cli.top.queues import QueueLength
from pgnotifier.cli.top.rows import Row
from pgnotifier.cli.top.watching import Look
from pgnotifier.status import Delay

REMEMBERED = 120
"""How many surveys the sparklines remember."""


@dataclass(slots=True)
class Board:
    """What the screen shows. It belongs to the thread of the screen.

    Attributes:
        survey: The latest survey that has succeeded.
        queues: The latest lengths of queues in brokers.
        error: Why the last survey has failed; None if it has not.
        lost_at: Since when surveys fail, by a steady clock.
        taken_at: When the survey was taken, by the machine's clock.
        received: How many notifications a second were read, in all.
        delivered: How many deliveries a second were finished, in all.
        trends: The same for each channel, as far as it was read.
    """

    survey: Survey | None = None
    queues: tuple[QueueLength, ...] = ()
    error: str | None = None
    lost_at: float | None = None
    taken_at: datetime | None = None
    received: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    delivered: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    trends: dict[str, deque[float]] = field(default_factory=dict)

    @property
    def reports(self) -> Sequence[ListenerReport]:
        """The listeners that have answered."""
        return () if self.survey is None else self.survey.reports

    def take(self, look: Look, queues: tuple[QueueLength, ...] = ()) -> None:
        """Take what a survey has found."""
        self.error = look.error
        if look.survey is None:
            self.lost_at = monotonic() if self.lost_at is None else self.lost_at
            return
        self.lost_at = None
        self.survey, self.queues = look.survey, queues
        self.taken_at = datetime.now().astimezone()
        rates = [one.rate for one in self.reports if one.rate is not None]
        if rates or not self.reports:
            self.received.append(sum(rates))
            dispatchers = (each for one in self.reports for each in one.dispatchers)
            self.delivered.append(sum(each.rate or 0.0 for each in dispatchers))
        self._follow_channels()

    def _follow_channels(self) -> None:
        rates = dict[str, float]()
        for one in self.reports:
            for each in one.channels:
                if each.rate is not None:
                    rates[each.name] = rates.get(each.name, 0.0) + each.rate
        for name in [one for one in self.trends if one not in rates]:
            del self.trends[name]
        for name, rate in rates.items():
            self.trends.setdefault(name, deque(maxlen=REMEMBERED)).append(rate)

    # --- the figures above the tables ---

    @property
    def delay(self) -> Delay | None:
        """How long the batches of the slowest dispatcher take."""
        delays = [each.delay for one in self.reports for each in one.dispatchers if each.delay]
        return max(delays, key=lambda one: (one.p95, one.median), default=None)

    @property
    def round_trip(self) -> float | None:
        """The longest of the latest round trips of listeners, in seconds."""
        return max((one.latency.last for one in self.reports if one.latency), default=None)

    @property
    def buffers(self) -> tuple[int, int]:
        """How many notifications wait in buffers, and how many may."""
        dispatchers = [each for one in self.reports for each in one.dispatchers]
        return sum(one.waiting for one in dispatchers), sum(one.size for one in dispatchers)

    @property
    def lag(self) -> int:
        """The most entries that a durable subscription is behind."""
        return max((each.lag for one in self.reports for each in one.durable), default=0)

    @property
    def dead(self) -> int:
        """How many dead letters durable subscriptions have."""
        known = dict[tuple[str, str], int]()
        for one in self.reports:
            for each in one.durable:
                key = each.channel, each.id
                known[key] = max(known.get(key, 0), each.dead)
        return sum(known.values())

    @property
    def problem(self) -> str | None:
        """The worst problem, in one line."""
        if self.error is not None:
            lost = int(monotonic() - (self.lost_at or monotonic()))
            since = f" (for {lost} s)" if lost else ""
            return f"not connected{since}, trying again: {self.error}"
        if self.survey is None:
            return None
        return next(iter(self._find_problems(self.survey)), None)

    def _find_problems(self, survey: Survey) -> Sequence[str]:
        found = [] if any(one.state == "listening" for one in self.reports) else ["nobody listens"]
        found += [
            f"the listener of session {one.backend_pid} doesn't answer" for one in survey.silent
        ]
        found += [f"{name_listener(one)}: {one.why}" for one in self.reports if one.why]
        found += [
            f"{name_listener(one)}: {each.name}: {each.why or 'its queue is down'}"
            for one in self.reports
            for each in one.dispatchers
            if each.retrying
        ]
        return [printable(one) for one in found]

    # --- orders ---

    def make_orders(self, row: Row) -> tuple[Verb, Sequence[Order], int]:
        """Return the orders that mute or unmute the channel or subscription of a row.

        Returns:
            The verb, an order for each listener that has it and takes orders, and how many don't.
        """
        concerned = [one for one in self.reports if _mutes(one, row) is not None]
        verb: Verb = "unmute" if all(_mutes(one, row) for one in concerned) else "mute"
        orders = [
            Order(one.id, verb, row.channel or "", row.subscription)
            for one in concerned
            if one.takes_orders
        ]
        return verb, orders, len(concerned) - len(orders)


def _mutes(one: ListenerReport, row: Row) -> bool | None:
    """Return whether a listener has muted the row's channel or subscription; None without it."""
    if row.channel is None:
        return None
    if row.subscription is None:
        found = [each.muted for each in one.channels if each.name == row.channel]
    else:
        found = [
            each.muted
            for each in one.subscriptions
            if (each.channel, each.id) == (row.channel, row.subscription)
        ]
    return all(found) if found else None


def name_listener(one: ListenerReport) -> str:
    """Return the name of a listener: the machine and the process."""
    return f"{one.host} {one.pid}"
