"""The values that callbacks and hooks get: `Notification` (or `Entry`), and `Gap`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec


class Notification(msgspec.Struct, frozen=True, gc=False):
    """One notification as PostgreSQL delivered it.

    It is a msgspec struct rather than a dataclass because one is made for each notification and
    subscription, and a struct costs a tenth of what a frozen dataclass does.

    Attributes:
        channel: The channel on which it was received.
        payload: Its content, decoded.
        raw: Its content as text. Bytes that aren't UTF-8 are lone surrogates.
        pid: The process id of the notifying session's server process.
        received_at: When the listener read it; aware, in UTC.
        count: How many notifications it stands for, if the subscription has `batch` or
            `debounce`. The other attributes are those of the latest one.
        parts: The notifications of a batch. The payload is the list of their payloads.

    Those of durable subscriptions are of the subclass `Entry`, which has values for `id`, `key` and
    `published_at` as well. They are properties here, so that they cost other notifications nothing.
    """

    channel: str
    payload: Any
    raw: str
    pid: int
    received_at: datetime
    count: int = 1
    parts: "tuple[Notification, ...]" = ()

    @property
    def id(self) -> int | None:
        """The number of the entry in the log, for a durable subscription. Otherwise None."""
        return None

    @property
    def key(self) -> str | None:
        """The key that it was published with, if any."""
        return None

    @property
    def published_at(self) -> datetime | None:
        """When it was published, by the server's clock, for a durable subscription."""
        return None

    @property
    def attempt(self) -> int:
        """How many times it has been tried for this subscription, including this time."""
        return 1


_kept = Notification.__dict__["raw"].__get__
raw_of: Callable[[Notification], str | bytes] = _kept
"""Return the content as it is stored: a text, or the bytes of an `Arrival`."""


class Arrival(Notification, frozen=True, gc=False):
    """A notification with the bytes from libpq as `raw`: `Arrival(channel, payload, data, …)`.

    The text of `raw` is made each time that it is read, because it is rarely needed. An `Arrival`
    is equal to the `Notification` with that text, and has the same repr and pickle.
    """

    @property  # type: ignore[misc]
    def raw(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Its content as text."""
        data: bytes = _kept(self)
        return data.decode("utf-8", "surrogateescape")

    def plain(self) -> Notification:
        """Return a `Notification` with the text."""
        return Notification(*(getattr(self, name) for name in self.__struct_fields__))

    def __reduce__(self) -> Any:
        return self.plain().__reduce__()

    def __repr__(self) -> str:
        return repr(self.plain())

    def __eq__(self, other: object) -> bool:
        return self.plain() == (other.plain() if isinstance(other, Arrival) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.plain())


class Receipt(Protocol):
    """Keeps track of log entries that were read together, until each of them is settled."""

    def settle(self, entry: int) -> None:
        """Note that an entry is done."""
        ...

    def settle_all(self, entries: Iterable[int]) -> None:
        """Note that entries are done, as far as they haven't failed."""
        ...

    def fail(self, entry: int, exc: BaseException) -> None:
        """Note that an entry has failed, and that its dispatcher doesn't try it again."""
        ...

    def covers(self, mutes: int) -> bool:
        """Return whether a binding hasn't been muted since these entries were read."""
        ...


class Entry(Notification, frozen=True, gc=False):
    """A notification that was read from the log, for a durable subscription.

    Attributes:
        id: The number of the entry.
        key: The key that it was published with, if any.
        published_at: When it was published, by the server's clock; aware.
        attempt: How many times it has been tried for this subscription, including this time.
        receipt: Notes when it is settled. Internal: dispatchers call `Delivery.settle`.
    """

    id: int = 0  # pyright: ignore[reportIncompatibleMethodOverride]
    key: str | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    published_at: datetime | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    attempt: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """The entries that a durable subscription has missed because it exceeded its `max_lag`.

    Attributes:
        subscription: The subscription's id.
        channel: Its channel.
        entries: How many entries it has missed.
        is_exact: Whether `entries` was counted; otherwise it is an upper bound.
        from_id: The number of the first one.
        to_id: The number of the last one.
    """

    subscription: str
    channel: str
    entries: int
    is_exact: bool
    from_id: int
    to_id: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time in which notifications may have been missed.

    All missed notifications were committed between `since` and `until` by this machine's clock.
    `since` is when the last answered round trip to the server began. PostgreSQL sends a session
    its pending notifications before it answers, so everything committed before was received.

    Attributes:
        since: The beginning; aware, in UTC.
        until: When the listener was listening to every channel again; aware, in UTC.
        channels: The channels on which notifications may have been missed.
        reason: What happened, as a text.
        dropped: What durable subscriptions have missed. Then `since` and `until` are the times at
            which the first and the last of these entries were published.
    """

    since: datetime
    until: datetime
    channels: frozenset[str]
    reason: str
    dropped: tuple[Dropped, ...] = ()

    def merge(self, later: "Gap") -> "Gap":
        """Return a gap that covers this one and a later one, with the later one's reason."""
        return Gap(
            min(self.since, later.since),
            max(self.until, later.until),
            self.channels | later.channels,
            later.reason,
            self.dropped + later.dropped,
        )

    def to_notification(self, channel: str) -> Notification:
        """Return the gap as the notification with which a subscription's `on_gap` is called."""
        payload = self.to_dict()
        raw = msgspec.json.encode(payload).decode()
        return Notification(channel, payload, raw, 0, self.until)

    def to_dict(self) -> Mapping[str, Any]:
        """Return the gap as JSON-able values, with times in ISO 8601."""
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "channels": sorted(self.channels),
            "reason": self.reason,
            **({"dropped": [asdict(one) for one in self.dropped]} if self.dropped else {}),
        }
