"""The registry as an immutable value: channels, their subscriptions, and who gets deliveries."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rpds import HashTrieMap

from pgnotifier.dispatch import Binding, Dispatcher

Lane = tuple[Dispatcher, tuple[Binding, ...]]
"""A dispatcher, and its bindings on one channel in subscribing order."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel in the registry.

    Attributes:
        muted: Whether the whole channel is muted.
        bindings: The bindings by subscription id, in subscribing order. Never changed in place.
        lanes: The bindings that aren't muted, grouped by dispatcher.
    """

    muted: bool = False
    bindings: Mapping[Hashable, Binding] = field(default_factory=dict)
    lanes: tuple[Lane, ...] = ()


_EMPTY = Channel()


class Registry:
    """Channels and their subscriptions, as an immutable value: each change returns a new one.

    Readers need no lock. It is built on a persistent map, so adding one channel to ten thousand
    doesn't copy them.
    """

    __slots__ = ("_channels",)

    def __init__(self, channels: "HashTrieMap[str, Channel] | None" = None) -> None:
        self._channels: HashTrieMap[str, Channel] = HashTrieMap() if channels is None else channels

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def __iter__(self) -> Iterator[str]:
        return iter(self._channels)

    def __len__(self) -> int:
        return len(self._channels)

    def lanes(self, channel: str) -> tuple[Lane, ...]:
        """Return the bindings to deliver to on a channel, by dispatcher."""
        return self._channels.get(channel, _EMPTY).lanes

    def binding(self, id: Hashable, channel: str) -> Binding | None:
        """Return the binding of an id on a channel, if there is one."""
        return self._channels.get(channel, _EMPTY).bindings.get(id)

    def bindings(self, channel: str) -> Iterable[Binding]:
        """Return a channel's bindings in subscribing order."""
        return self._channels.get(channel, _EMPTY).bindings.values()

    def callbacks(self) -> dict[str, dict[Hashable, Any]]:
        """Return the callbacks by channel and id, without channels that have none."""
        found = {
            name: {one.id: one.subscription.fn for one in self.bindings(name)} for name in self
        }
        return {name: callbacks for name, callbacks in found.items() if callbacks}

    def is_muted(self, channel: str) -> bool:
        """Return whether the whole channel is muted."""
        return self._channels.get(channel, _EMPTY).muted

    def add(self, channels: Iterable[str]) -> "Registry":
        """Return a registry with these channels added."""
        grown = self._channels
        for name in channels:
            if name not in grown:
                grown = grown.insert(name, _EMPTY)
        return Registry(grown)

    def remove(self, channels: Iterable[str]) -> "Registry":
        """Return a registry without these channels and their subscriptions."""
        left = self._channels
        for name in channels:
            left = left.discard(name)
        return Registry(left)

    def bind(self, binding: Binding) -> "Registry":
        """Return a registry with this binding, which replaces one with the same id and channel."""
        name = binding.subscription.channel
        before = self._channels.get(name, _EMPTY)
        return self._with(name, before.muted, {**before.bindings, binding.id: binding})

    def unbind(self, id: Hashable, channel: str) -> "Registry":
        """Return a registry without this subscription, or without its channel if none is left."""
        before = self._channels.get(channel, _EMPTY)
        if id not in before.bindings:
            return self
        left = dict(before.bindings)
        del left[id]
        return self._with(channel, before.muted, left) if left else self.remove([channel])

    def mute(self, channel: str, muted: bool) -> "Registry":
        """Return a registry in which the channel is muted, or not muted."""
        before = self._channels.get(channel)
        if before is None or before.muted == muted:
            return self
        return self._with(channel, muted, before.bindings)

    def _with(self, name: str, muted: bool, bindings: Mapping[Hashable, Binding]) -> "Registry":
        lanes: dict[Dispatcher, list[Binding]] = {}
        for binding in bindings.values():
            if not (muted or binding.subscription.muted):
                lanes.setdefault(binding.dispatcher, []).append(binding)
        grouped = tuple((dispatcher, tuple(found)) for dispatcher, found in lanes.items())
        return Registry(self._channels.insert(name, Channel(muted, bindings, grouped)))
