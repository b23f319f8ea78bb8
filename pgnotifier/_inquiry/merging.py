"""Merge what several listeners have answered about the same channel."""

from collections.abc import Iterable
from dataclasses import dataclass

from pgnotifier._inquiry.report import ChannelReport, ListenerReport


@dataclass(frozen=True, slots=True)
class MergedChannel:
    """One channel of all listeners that have it.

    Attributes:
        name: Its name.
        rate: How many notifications a second were read, by all of them together.
        received: How many were read, by all of them together.
        muted: How many of the listeners have muted it.
        listeners: How many listeners there are.
        durable: Whether any of them has durable subscriptions to it.
        subscriptions: The ids of the subscriptions.
    """

    name: str
    rate: float
    received: int
    muted: int
    listeners: int
    durable: bool
    subscriptions: frozenset[str]


def merge_channels(reports: Iterable[ListenerReport]) -> list[MergedChannel]:
    """Return the channels of all listeners together, in the order of the reports."""
    parts, ids = dict[str, list[ChannelReport]](), dict[str, set[str]]()
    for one in reports:
        for channel in one.channels:
            parts.setdefault(channel.name, []).append(channel)
        for subscription in one.subscriptions:
            ids.setdefault(subscription.channel, set()).add(subscription.id)
    return [
        MergedChannel(
            name=name,
            rate=sum(one.rate or 0.0 for one in found),
            received=sum(one.received for one in found),
            muted=sum(one.muted for one in found),
            listeners=len(found),
            durable=any(one.durable for one in found),
            subscriptions=frozenset(ids.get(name, ())),
        )
        for name, found in parts.items()
    ]
