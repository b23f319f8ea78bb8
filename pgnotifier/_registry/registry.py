"""The registry: which subscriptions each channel has, as an immutable value."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rpds import HashTrieMap

from pgnotifier.dispatch import Binding, Dispatcher

Lane = tuple[Dispatcher, tuple[Binding, ...]]


"""A dispatcher with the bindings on one channel that it serves, in subscribing order."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What the registry knows of one channel.

    Attributes:
        muted: Whether the whole channel is muted.
        bindings: By subscription id, in subscribing order; never changed in place.
        lanes: The bindings that are to be delivered to, by dispatcher.
    """

    muted: bool = False
    bindings: Mapping[Hashable, Binding] = field(default_factory=dict)
    lanes: tuple[Lane, ...] = ()

    def having(self, *, muted: bool, bindings: Mapping[Hashable, Binding]) -> "Channel":
        """Return a channel with these subscriptions, its lanes computed."""
        lanes: dict[Dispatcher, list[Binding]] = {}
        if not muted:
            for binding in bindings.values():
                if not binding.subscription.muted:
                    lanes.setdefault(binding.subscription.dispatcher, []).append(binding)
        return Channel(muted, bindings, tuple((d, tuple(found)) for d, found in lanes.items()))


class Registry:
    """Channels and their subscriptions: a value, of which each change makes a new one.

    Built on a persistent map, so that adding a channel to ten thousand copies none of them,
    and readers need no lock.
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
        """Return who is to be delivered to on a channel; nobody if it isn't there."""
        found = self._channels.get(channel)
        return () if found is None else found.lanes

    def binding(self, id: Hashable, channel: str) -> Binding | None:
        """Return the binding of an id on a channel, if there is one."""
        found = self._channels.get(channel)
        return None if found is None else found.bindings.get(id)

    def bindings(self, channel: str) -> Iterable[Binding]:
        """Return a channel's bindings in subscribing order."""
        found = self._channels.get(channel)
        return () if found is None else found.bindings.values()

    def callbacks(self) -> dict[str, dict[Hashable, Any]]:
        """Return the callbacks by channel and id, without channels that have none."""
        found = {
            name: {one.id: one.subscription.fn for one in self.bindings(name)} for name in self
        }
        return {name: callbacks for name, callbacks in found.items() if callbacks}

    def is_muted(self, channel: str) -> bool:
        """Return whether the whole channel is muted."""
        found = self._channels.get(channel)
        return found is not None and found.muted

    def add(self, channels: Iterable[str]) -> "Registry":
        """Return a registry that has these channels too."""
        grown = self._channels
        for name in channels:
            if name not in grown:
                grown = grown.insert(name, Channel())
        return Registry(grown)

    def remove(self, channels: Iterable[str]) -> "Registry":
        """Return a registry without these channels and their subscriptions."""
        left = self._channels
        for name in channels:
            left = left.discard(name)
        return Registry(left)

    def bind(self, binding: Binding) -> "Registry":
        """Return a registry with this binding, in the place of one with its id and channel."""
        name = binding.subscription.channel
        before = self._channels.get(name) or Channel()
        return self._with(name, before, {**before.bindings, binding.id: binding})

    def unbind(self, id: Hashable, channel: str) -> "Registry":
        """Return a registry without this subscription, nor its channel if that was its last."""
        before = self._channels.get(channel)
        if before is None or id not in before.bindings:
            return self
        left = dict(before.bindings)
        del left[id]
        return self._with(channel, before, left) if left else self.remove([channel])

    def mute(self, channel: str, muted: bool) -> "Registry":
        """Return a registry in which the channel is muted, or isn't."""
        before = self._channels.get(channel)
        if before is None or before.muted == muted:
            return self
        after = before.having(muted=muted, bindings=before.bindings)
        return Registry(self._channels.insert(channel, after))

    def _with(self, name: str, before: Channel, bindings: Mapping[Hashable, Binding]) -> "Registry":
        after = before.having(muted=before.muted, bindings=bindings)
        return Registry(self._channels.insert(name, after))
