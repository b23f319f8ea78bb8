"""What durable subscriptions must get: a model in plain Python, without SQL, threads and windows.

Time is a number of steps. An entry is *called* at the step of its publication, and *committed* at
the step of its transaction's commit.
"""

from collections import Counter
from dataclasses import dataclass, field

MAX_ATTEMPTS = 2


@dataclass
class Entry:
    """One publication.

    Attributes:
        payload: A number that no other entry has.
        channel: Its channel.
        id: Its number in the log.
        at: When it was published, by the server's clock.
        called: When it was published.
        committed: When its transaction was; None if it wasn't, or if it was rolled back.
    """

    payload: int
    channel: str
    id: int
    at: object
    called: int
    committed: int | None = None


@dataclass(eq=False)
class Expected:
    """What one subscription must get, may get, and has got.

    Attributes:
        name: Its id.
        channel: Its channel.
        on_failure: As in `subscribe()`.
        required: Entries that must succeed, or become dead letters.
        allowed: Entries that may be delivered: the required ones, and those before its start.
        handed: Entries that were handed over since its start.
        saved: Entries that are behind its position, and so must not be handed over again.
        aside: Entries that are delivered beside the flow, because they have failed, or because the
            database was restored. No order is promised for them.
        done: Entries that have succeeded.
        failures: How often an entry has failed.
        moves: How often its position has moved.
    """

    name: str
    channel: str
    on_failure: str
    required: set[int] = field(default_factory=set)
    allowed: set[int] = field(default_factory=set)
    handed: set[int] = field(default_factory=set)
    saved: set[int] = field(default_factory=set)
    aside: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    failures: Counter[int] = field(default_factory=Counter)
    moves: int = 0

    @property
    def left(self) -> set[int]:
        """Entries that it hasn't got for good."""
        return self.required - self.saved

    @property
    def undelivered(self) -> set[int]:
        """Entries of the flow that it hasn't tried yet."""
        return self.required - self.aside - self.done - self.failures.keys()

    def is_beside(self, payload: int) -> bool:
        """Return whether no order is promised for an entry."""
        has_failed = self.on_failure == "dead_letter" and payload in self.failures
        return payload in self.aside or has_failed

    def commit(self, entry: Entry) -> None:
        """Expect an entry that was just committed."""
        if entry.channel == self.channel:
            self.required.add(entry.payload)
            self.allowed.add(entry.payload)

    def start(self, required: set[int], allowed: set[int]) -> None:
        """Go to another place in the log.

        Args:
            required: What comes from there on.
            allowed: What may come along.
        """
        self.required = set(required) | self.aside
        self.allowed = set(required | allowed) | self.aside
        self.handed.clear()
        self.saved.clear()
        self.done -= self.required - self.aside
        self.moves += 1

    def hand_over(self, batch: list[int], entries: dict[int, Entry]) -> None:
        """Check entries that are handed over together."""
        for payload in batch:
            entry = entries.get(payload)
            assert entry is not None, f"{payload} was invented"
            assert entry.committed is not None, f"{payload} was not committed"
            assert payload in self.allowed, f"{self.name} must not get {payload}"
            beside = self.is_beside(payload)
            assert beside or payload not in self.saved, f"{self.name} gets {payload} again"
            if not beside:
                self._check_order(entry, entries)
            self.handed.add(payload)
        flow = [entries[one].id for one in batch if not self.is_beside(one)]
        assert flow == sorted(flow)

    def _check_order(self, entry: Entry, entries: dict[int, Entry]) -> None:
        """Check that what was committed before an entry was published has come before it."""
        before = self.done if self.on_failure == "stop" else self.handed
        for payload in self.required - before - {entry.payload}:
            committed = entries[payload].committed
            is_free = self.is_beside(payload) or committed is None or committed > entry.called
            assert is_free, f"{self.name} gets {entry.payload} before {payload}"

    def save(self, outcomes: list[tuple[int, bool]]) -> None:
        """Move the position past entries, which have succeeded or failed."""
        for payload, has_succeeded in outcomes:
            self.saved.add(payload)
            if not has_succeeded:
                self.aside.add(payload)
        self.moves += 1
