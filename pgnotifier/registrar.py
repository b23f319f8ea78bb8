"""The registry's one writer: each change makes a new registry, and ends what it replaced."""

import contextlib
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from pgnotifier.errors import PgNotifierError
from pgnotifier.registry import Binding, Registry, Report, Subscription


@dataclass(slots=True, eq=False)
class Change:
    """A subscription on its way into the registry, while its dispatcher binds it.

    Attributes:
        id: Its id.
        channel: Its channel.
        before: What had that id and channel.
        is_listed: Whether the channel was there.
        is_overtaken: Whether another thread has changed the same since.
    """

    id: Hashable
    channel: str
    before: Binding | None
    is_listed: bool
    is_overtaken: bool = False

    @property
    def key(self) -> tuple[Hashable, str]:
        """What identifies it."""
        return self.id, self.channel


class Registrar:
    """Holds the registry of a notifier and writes it, under the notifier's lock.

    Dispatchers are called without that lock. So to subscribe takes three steps, and is done again
    if another thread has changed the same subscription between the first and the last.

    Attributes:
        registry: As it is now. Anyone may read it, without the lock.
    """

    def __init__(self, report: Report) -> None:
        """Begin with an empty registry.

        Args:
            report: Told of each delivery that fails.
        """
        self.registry = Registry()
        self._report = report
        self._changes: set[Change] = set()
        self._leaving: deque[tuple[tuple[Hashable, str], Subscription]] = deque()

    def add(self, channels: Iterable[str]) -> list[str]:
        """Add channels, and return those that weren't there."""
        new = [name for name in channels if name not in self.registry]
        self.registry = self.registry.add(new)
        return new

    def remove(self, channels: Iterable[str]) -> None:
        """Remove channels, with their subscriptions."""
        names = list(channels)
        self._swap(self.registry.remove(names), names)

    def begin(self, id: Hashable, channel: str) -> Change:
        """Begin to subscribe an id to a channel; `bind` and `complete` follow."""
        change = Change(id, channel, self.registry.binding(id, channel), channel in self.registry)
        self._changes.add(change)
        return change

    def bind(self, subscription: Subscription, change: Change, *, again: bool = False) -> Binding:
        """Have a subscription's dispatcher bind it. To be called without the lock.

        A dispatcher may wait for a lock of its queue's client, whose holder subscribes.

        Args:
            subscription: What is to be subscribed.
            change: What `begin` returned.
            again: Whether it was bound before, and `complete` came too late.

        Raises:
            PgNotifierError: The dispatcher refuses it; nothing has changed.
        """
        by, for_gaps, on_gap = subscription.dispatcher, subscription.for_gaps(), None
        try:
            if for_gaps is not None:
                on_gap = Binding(for_gaps, by.bind(for_gaps), self._report)
            target = by.bind(subscription)
        except BaseException:
            self._changes.discard(change)
            if on_gap is not None:
                self._leaving.append((change.key, on_gap.subscription))
            if again:
                self._leaving.append((change.key, subscription))
            raise
        return Binding(subscription, target, self._report, on_gap)

    def complete(self, change: Change, binding: Binding) -> bool:
        """Put what was bound into the registry, in the place of what has its id and channel.

        Returns:
            False if another thread has changed the same subscription since `begin`. Then nothing
            is done, and all is to be done again: the dispatcher may have seen ours first.
        """
        self._changes.discard(change)
        if not change.is_overtaken:
            self._swap(self.registry.bind(binding), [change.channel])
        return not change.is_overtaken

    def take_back(self, change: Change, binding: Binding) -> None:
        """Remove what was completed where nothing was before, unless it was changed since."""
        if self.registry.binding(change.id, change.channel) is binding:
            left = self.registry.unbind(change.id, change.channel)
            self._swap(left.add([change.channel]) if change.is_listed else left, [change.channel])

    # Whoever removes a subscription has its dispatcher forget it after the lock is released, when
    # another thread may have bound it anew. So that is done in three steps, too.

    def next_leaving(self) -> tuple[Change, Subscription] | None:
        """Return a subscription that its dispatcher is still to forget; None if there is none."""
        if not self._leaving:
            return None
        key, subscription = self._leaving.popleft()
        return self.begin(*key), subscription

    def unbind(self, subscription: Subscription, change: Change) -> None:
        """Have a dispatcher forget a subscription. To be called without the lock, as `bind` is.

        If the dispatcher has it again by now, it is made sure that it knows that.
        """
        by, after = subscription.dispatcher, change.before
        if after is not None and subscription.tells_gaps:
            after = after.on_gap
        if after is None or after.subscription.dispatcher is not by:
            by.unbind(subscription)
        else:
            with contextlib.suppress(PgNotifierError):
                by.bind(after.subscription)

    def forgotten(self, change: Change, subscription: Subscription) -> None:
        """End what `next_leaving` began, or have it done again if the same has changed since."""
        self._changes.discard(change)
        for other in tuple(self._changes):
            if other.key == change.key:  # its dispatcher may have bound it before we had it unbound
                other.is_overtaken = True
        if change.is_overtaken:
            self._leaving.append((change.key, subscription))

    def unsubscribe(self, id: Hashable, channel: str) -> bool:
        """Remove a subscription; return whether its channel went with it, as with the last."""
        if self.registry.binding(id, channel) is None:
            return False
        self._swap(self.registry.unbind(id, channel), [channel])
        return channel not in self.registry

    def mute_channels(self, channels: Iterable[str], muted: bool) -> None:
        """Mute or unmute channels."""
        for name in channels:
            self._swap(self.registry.mute(name, muted), [name])

    def mute_subscriber(self, id: Hashable, channels: Iterable[str], muted: bool) -> None:
        """Mute or unmute an id on channels."""
        for name in channels:
            binding = self.registry.binding(id, name)
            if binding is not None and binding.subscription.muted != muted:
                self._swap(self.registry.bind(binding.with_muted(muted)), [name])

    def _swap(self, registry: Registry, channels: Iterable[str]) -> None:
        """Replace the registry, and end the bindings on these channels that it has no more."""
        before, self.registry = self.registry, registry
        for change in tuple(self._changes):
            if before.binding(*change.key) is not registry.binding(*change.key):
                change.is_overtaken = True
        for channel in channels:
            for binding in before.bindings(channel):
                after = registry.binding(binding.id, channel)
                if after is not binding:
                    binding.live = False
                    by = binding.subscription.dispatcher
                    stays = after is not None and after.subscription.dispatcher is by
                    if not stays:
                        self._leaving.append(((binding.id, channel), binding.subscription))
                    if binding.on_gap and not (stays and after and after.on_gap):
                        told = binding.on_gap.subscription
                        self._leaving.append(((binding.id, channel), told))
