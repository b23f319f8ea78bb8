"""The registry's one writer: each change makes a new registry, and ends what it replaced."""

from collections.abc import Callable, Hashable, Iterable

from pgnotifier.registry import Binding, Registry, Report, Subscription


class Registrar:
    """Holds the registry of a notifier and writes it, under the notifier's lock.

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

    def add(self, channels: Iterable[str]) -> list[str]:
        """Add channels, and return those that weren't there."""
        new = [name for name in channels if name not in self.registry]
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
        before, listed = self.registry.binding(key, channel), channel in self.registry
        self._bind(subscription)

        def undo() -> None:
            if before is not None:
                self._bind(before.subscription)
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
                self._swap(self.registry.bind(binding.with_muted(muted)), [name])

    def _bind(self, subscription: Subscription) -> None:
        by, for_gaps, on_gap = subscription.dispatcher, subscription.for_gaps(), None
        if for_gaps is not None:
            on_gap = Binding(for_gaps, by.bind(for_gaps), self._report)
        try:
            target = by.bind(subscription)
        except BaseException:
            if for_gaps is not None:
                by.unbind(for_gaps)
            raise
        binding = Binding(subscription, target, self._report, on_gap)
        self._swap(self.registry.bind(binding), [subscription.channel])

    def _swap(self, registry: Registry, channels: Iterable[str]) -> None:
        """Replace the registry, and end the bindings on these channels that it has no more."""
        before, self.registry = self.registry, registry
        for channel in channels:
            for binding in before.bindings(channel):
                after = registry.binding(binding.id, channel)
                if after is not binding:
                    binding.live = False
                    by = binding.subscription.dispatcher
                    stays = after is not None and after.subscription.dispatcher is by
                    if not stays:
                        by.unbind(binding.subscription)
                    if binding.on_gap and not (stays and after and after.on_gap):
                        by.unbind(binding.on_gap.subscription)
