"""Account for every notification: the routes on which it was delivered, and the gaps.

The time of a commit is only known to be between two times of this machine's clock. So a
notification may lie in a gap if that interval and the gap overlap. It was delivered in the wrong
order if its commit had ended before the commit of an earlier delivery began.

What is published durably is in the same books, but no gap explains that it is missing, and it may
come again.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from pgnotifier import Gap

ROUTES = ("callback", "task")
SHOWN = 20
"""How many offences of each kind are kept as text."""


class Key(NamedTuple):
    """The payload of a notification, which identifies it."""

    sender: int
    number: int


@dataclass(slots=True)
class Commit:
    """The times of a transaction's COMMIT, by `time.time()`.

    Attributes:
        begun: Before the transaction was sent.
        ended: When the COMMIT was confirmed; None while it runs, or if its outcome is unknown.
    """

    begun: float
    ended: float | None = None


@dataclass(slots=True)
class Sent:
    """A notification.

    Attributes:
        channel: Its channel.
        commit: Its transaction.
        is_durable: Whether it was published durably.
        expected: Whether it has to be delivered, because its channel has subscriptions.
        came: The routes on which it was delivered, each with the id of its task.
    """

    channel: str
    commit: Commit
    is_durable: bool = False
    expected: bool = True
    came: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Totals:
    """The totals.

    Attributes:
        sent: Notifications sent, including those with an unknown outcome.
        perhaps: Notifications that weren't delivered, and may not have been committed.
        came: Notifications delivered, by route.
        in_gaps: Notifications that weren't delivered, and may have been committed in a gap.
        again: Tasks that were enqueued again with the same id, and durable calls that were made
            again, which is documented behaviour.
    """

    sent: int = 0
    perhaps: int = 0
    came: Counter[str] = field(default_factory=Counter)
    in_gaps: int = 0
    again: int = 0


class Ledger:
    """Keeps the accounts. Any thread may call every method; `_lock` guards everything.

    Attributes:
        totals: What was notified.
        durable: What was published durably.
        gaps: The gaps that were reported.
        offences: What must not happen, and how often it did.
        shown: Some of it in words.
    """

    def __init__(self, durable: Iterable[str] = ()) -> None:
        """Begin with empty books.

        Args:
            durable: The channels on which is published durably.
        """
        self.totals = Totals()
        self.durable = Totals()
        self.gaps: list[Gap] = []
        self.offences: Counter[str] = Counter()
        self.shown: list[str] = []
        self._sent: dict[Key, Sent] = {}
        self._next: Counter[int] = Counter()
        self._removed: set[str] = set()
        self._last: dict[tuple[str, str, int], int] = {}
        self._latest: dict[tuple[str, str], float] = {}
        self._durable = frozenset(durable)
        self._lock = threading.Lock()

    def is_durable(self, channel: str) -> bool:
        """Return whether one publishes durably on a channel."""
        return channel in self._durable

    # --- what is sent ---

    def begin(
        self, sender: int, channels: Iterable[str], *, expected: bool = True
    ) -> tuple[Commit, list[Key]]:
        """Record a transaction's notifications, one for each channel given."""
        with self._lock:
            commit = Commit(time.time())
            keys = []
            for channel in channels:
                key = Key(sender, self._next[sender])
                self._next[sender] += 1
                sent = Sent(channel, commit, self.is_durable(channel), expected)
                self._sent[key] = sent
                keys.append(key)
                self._totals(sent).sent += 1
            return commit, keys

    # --- what comes ---

    def deliver(self, route: str, key: Key, channel: str, id: str = "") -> None:
        """Record a delivery, and any offence.

        Args:
            route: One of `ROUTES`.
            key: The notification.
            channel: The channel that it was delivered with.
            id: The id of the task. The same task may be enqueued again; without an id, a second
                delivery is an offence.
        """
        with self._lock:
            sent = self._sent.get(key)
            if sent is None:
                self._offend("unknown", f"{route} {key}: never sent, or long since delivered")
            elif sent.channel != channel:
                self._offend("misrouted", f"{route} {key}: sent to {sent.channel!r}, not {channel}")
            elif route in sent.came:
                if sent.came[route] == id and (id or sent.is_durable):
                    self._totals(sent).again += 1
                else:
                    self._offend("doubled", f"{route} {key} on {channel!r}, {sent.commit}")
            else:
                sent.came[route] = id
                self._totals(sent).came[route] += 1
                self._check_order(route, key, sent)
            if route == "callback" and channel in self._removed:
                self._offend("unwanted", f"{route} {key}: {channel!r} had been removed")

    def has_come(self, key: Key) -> bool:
        """Return whether a notification was delivered on every route."""
        with self._lock:
            sent = self._sent.get(key)
            return sent is None or len(sent.came) == len(ROUTES)

    def add_gap(self, gap: Gap) -> None:
        """Record a gap that was reported."""
        with self._lock:
            self.gaps.append(gap)
            if gap.since.utcoffset() is None or gap.until.utcoffset() is None:
                self._offend("bad gap", f"{gap}: naive times")
            elif gap.since > gap.until or not gap.reason or not gap.channels:
                self._offend("bad gap", str(gap))
            elif gap.channels & self._durable:
                self._offend("bad gap", f"{gap}: of a durable subscription")

    def mark_removed(self, channel: str, *, removed: bool) -> None:
        """Record that a channel has no subscriptions any more, or is about to get them."""
        with self._lock:
            (self._removed.add if removed else self._removed.discard)(channel)

    def offend(self, kind: str, what: str) -> None:
        """Record another offence."""
        with self._lock:
            self._offend(kind, what)

    # --- what follows ---

    def settle(self, until: float = inf) -> None:
        """Forget explained notifications that were committed before a time, to save memory.

        Unexplained ones are kept, because their gap may be reported later.

        Args:
            until: The time, by `time.time()`. Without it, unexplained notifications are offences.
        """
        with self._lock:
            for key, sent in list(self._sent.items()):
                if (sent.commit.ended or sent.commit.begun) < until and self._is_explained(sent):
                    del self._sent[key]
            if until < inf:
                return
            for key, sent in self._sent.items():
                missing = " and ".join(route for route in ROUTES if route not in sent.came)
                what = "durable lost" if sent.is_durable else "lost"
                self._offend(what, f"{missing} {key} on {sent.channel!r}, {sent.commit}")
            self._sent.clear()

    def disconnected(self) -> float:
        """Return the total seconds of gaps; overlapping ones count once."""
        with self._lock:
            spans = sorted((gap.since.timestamp(), gap.until.timestamp()) for gap in self.gaps)
        total, covered_until = 0.0, 0.0
        for since, until in spans:
            total += max(0.0, until - max(since, covered_until))
            covered_until = max(covered_until, until)
        return total

    def _check_order(self, route: str, key: Key, sent: Sent) -> None:
        last = self._last.get((route, sent.channel, key.sender), -1)
        latest = self._latest.get((route, sent.channel), 0.0)
        ended = sent.commit.ended
        if key.number < last or (ended is not None and ended < latest):
            self._offend(
                "disordered",
                f"{route} {key} on {sent.channel!r}, {sent.commit}: came after number {last} of "
                f"its sender, and after a commit begun at {latest}",
            )
        self._last[route, sent.channel, key.sender] = max(last, key.number)
        self._latest[route, sent.channel] = max(latest, sent.commit.begun)

    def _is_explained(self, sent: Sent) -> bool:
        if len(sent.came) == len(ROUTES) or not (sent.expected or sent.came):
            return True
        if sent.came:  # it was received, so no gap excuses the other route
            return False
        if sent.commit.ended is None:
            self._totals(sent).perhaps += 1
            return True
        if not sent.is_durable and is_in_gap(sent, self.gaps):
            self.totals.in_gaps += 1
            return True
        return False

    def _totals(self, sent: Sent) -> Totals:
        return self.durable if sent.is_durable else self.totals

    def _offend(self, kind: str, what: str) -> None:
        self.offences[kind] += 1
        if self.offences[kind] <= SHOWN:
            self.shown.append(f"{kind}: {what}")


def is_in_gap(sent: Sent, gaps: Sequence[Gap]) -> bool:
    """Return whether a confirmed commit may lie in one of the gaps of its channel."""
    begun, ended = sent.commit.begun, sent.commit.ended
    assert ended is not None
    return any(
        ended >= gap.since.timestamp()
        and begun <= gap.until.timestamp()
        and sent.channel in gap.channels
        for gap in reversed(gaps)
    )
