"""The registry's one writer: each change makes a new registry, and ends what it replaced."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import Any

from pgnotifier.registry import Binding, Registry, Report, Subscription
from pgnotifier.spelling import Spelling


class Registrar:
    """Holds the registry of a notifier and writes it, under the notifier's lock.

    Attributes:
        registry: As it is now. Anyone may read it, without the lock.
    """

    def __init__(
        self, report: Report, on_heir: Callable[[Binding], object] = lambda _: None
    ) -> None:
        """Begin with an empty registry.

        Args:
            report: Told of each delivery that fails.
            on_heir: Called with each binding that gets an heir.
        """
        self.registry = Registry()
        self._report = report
        self._on_heir = on_heir
        self._spelling = Spelling()

    def add(self, channels: Iterable[str]) -> list[str]:
        """Add channels, and return those that weren't there."""
        new = [name for name in channels if name not in self.registry]
        for name in new:
            self._spelling.check(name, self.registry)
        self.registry = self.registry.add(new)
        return new

    def remove(self, channels: Iterable[str]) -> None:
        """Remove channels, with their subscriptions."""
        names = list(channels)
        self._swap(self.registry.remove(names), names)

    def subscribe(self, subscription: Subscription) -> Callable[[], None]:
        """Bind a subscription, in the place of one with its id and channel.

        Returns:
            What takes it back.

        Raises:
            PgNotifierError: Its dispatcher refuses it; nothing has changed.
        """
        key, channel = subscription.id, subscription.channel
        found, listed = self.registry.binding(key, channel), channel in self.registry
        before = None if found is None else found.subscription
        self._bind(subscription)
        if not listed:
            self._spelling.check(channel, self.registry)

        def undo() -> None:
            now = self.registry.binding(key, channel)
            if now is None or replace(now.subscription, muted=subscription.muted) != subscription:
                return  # somebody else has replaced or removed it since
            if before is not None:
                self._bind(replace(before, muted=now.subscription.muted))
            else:
                left = self.registry.unbind(key, channel)
                self._swap(left.add([channel]) if listed else left, [channel])

        return undo

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
                binding.subscription = replace(binding.subscription, muted=muted)
                self._swap(self.registry.bind(binding), [name])

    def _bind(self, subscription: Subscription) -> None:
        by, for_gaps, gap_target = subscription.dispatcher, subscription.for_gaps(), None
        if for_gaps is not None:
            gap_target = by.bind(for_gaps)
        try:
            target = by.bind(subscription)
        except BaseException:
            if for_gaps is not None:
                by.unbind(for_gaps)
            raise
        self._replace(subscription, target, for_gaps, gap_target)

    def _replace(
        self,
        subscription: Subscription,
        target: Any,
        for_gaps: Subscription | None,
        gap_target: Any,
    ) -> None:
        """Put a subscription in the place of the one with its id and channel, if there is one."""
        before = self.registry.binding(subscription.id, subscription.channel)
        former = None if before is None else before.subscription
        former_gaps = None if before is None else before.on_gap
        # In place, if that can be: of `on_gap` before it is looked for anew.
        on_gap = None
        if for_gaps is not None:
            on_gap = self._successor(former_gaps, for_gaps, gap_target)
        binding = self._successor(before, subscription, target)
        binding.on_gap = on_gap
        registry = self.registry.bind(binding)
        self._mute(registry, [subscription.channel])
        for old, new in ((before, binding), (former_gaps, on_gap)):
            if old is None or old is new:
                continue
            if new is None:
                old.live = False
            else:
                old.leave_to(new)
                self._on_heir(old)
        # Last, so that deliverers know of the heir before something comes for it.
        self.registry = registry
        if former is not None:
            self._unbind(former, former_gaps, subscription)

    def _successor(
        self, before: Binding | None, subscription: Subscription, target: Any
    ) -> Binding:
        """Return the binding before, changed in place, or a new one."""
        if before is not None and before.can_become(subscription):
            before.become(subscription, target)
            return before
        return Binding(subscription, target, self._report)

    def _unbind(
        self, former: Subscription, former_gaps: Binding | None, now: Subscription | None
    ) -> None:
        """Have a dispatcher forget what it delivers to no more."""
        by = former.dispatcher
        stays = now is not None and now.dispatcher is by
        if not stays:
            by.unbind(former)
        if former_gaps is not None and not (stays and now is not None and now.on_gap is not None):
            by.unbind(former_gaps.subscription)

    def _swap(self, registry: Registry, channels: Iterable[str]) -> None:
        """Replace the registry, and end the bindings on these channels that it has no more."""
        before, self.registry = self.registry, registry
        for channel in channels:
            for binding in before.bindings(channel):
                if registry.binding(binding.id, channel) is None:
                    binding.live = False
                    if binding.on_gap is not None:
                        binding.on_gap.live = False
                    self._unbind(binding.subscription, binding.on_gap, None)
        self._mute(registry, channels)

    def _mute(self, registry: Registry, channels: Iterable[str]) -> None:
        """Have the bindings on these channels be live, but for those that are muted."""
        for channel in channels:
            silent = registry.is_muted(channel)
            for binding in registry.bindings(channel):
                binding.live = not (silent or binding.subscription.muted)
                if binding.on_gap is not None:
                    binding.on_gap.live = binding.live
