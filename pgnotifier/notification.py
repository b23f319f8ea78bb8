"""What arrived, and what may have been missed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec


class Notification(msgspec.Struct, frozen=True, gc=False):
    """One notification as PostgreSQL delivered it.

    A msgspec struct rather than a dataclass: it is built once per notification and
    subscription, and costs a tenth of what a frozen dataclass does.

    Attributes:
        channel: The channel that it came on.
        payload: Its content, decoded.
        raw: Its content as text; bytes that are not UTF-8 stand as lone surrogates.
        pid: The process id of the notifying session's server process.
        received_at: When the listener read it, aware, in UTC.
        count: How many notifications it stands for, of a subscription with `batch` or
            `debounce`; the other attributes are those of the latest.
        parts: These, of a batch, whose payload is the list of theirs.
    """

    channel: str
    payload: Any
    raw: str
    pid: int
    received_at: datetime
    count: int = 1
    parts: "tuple[Notification, ...]" = ()


_kept = Notification.__dict__["raw"].__get__


class Arrival(Notification, frozen=True, gc=False):
    """A notification made of the bytes that libpq hands over: `Arrival(channel, payload, data, …)`.

    Its text is made whenever it is asked for, which is seldom, rather than for each one. It is
    equal to the `Notification` with that text, shows as that, and pickles as that.
    """

    @property  # type: ignore[misc]
    def raw(self) -> str:
        """Its content as text."""
        data: bytes = _kept(self)
        return data.decode("utf-8", "surrogateescape")

    def plain(self) -> Notification:
        """Return it with its text."""
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


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time in which notifications may have been missed.

    Everything missed was committed between `since` and `until` by this machine's clock.
    `since` is when the last round trip to the server began that was answered: PostgreSQL
    sends a session its pending notifications before it answers, so all that had been
    committed by then was received.

    Attributes:
        since: Aware, in UTC.
        until: When every channel was heard again; aware, in UTC.
        channels: The channels concerned.
        reason: What happened, in words.
    """

    since: datetime
    until: datetime
    channels: frozenset[str]
    reason: str

    def merge(self, later: "Gap") -> "Gap":
        """Return one that covers this one and a later one, whose reason it has."""
        return Gap(
            min(self.since, later.since),
            max(self.until, later.until),
            self.channels | later.channels,
            later.reason,
        )

    def to_notification(self, channel: str) -> Notification:
        """Return the gap as what subscriptions are told, as if it had been sent to a channel."""
        payload = self.to_dict()
        raw = msgspec.json.encode(payload).decode()
        return Notification(channel, payload, raw, 0, self.until)

    def to_dict(self) -> Mapping[str, Any]:
        """Return the gap as JSON-able values, times in ISO 8601."""
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "channels": sorted(self.channels),
            "reason": self.reason,
        }
