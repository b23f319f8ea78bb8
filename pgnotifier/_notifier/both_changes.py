"""Changes of subscriptions of both kinds: those that listen, and durable ones."""

from collections.abc import Hashable

from pgnotifier._notifier.changes import Changes
from pgnotifier._notifier.durable_changes import DurableChanges
from pgnotifier._notifier.lifecycle import Lifecycle, Owner
from pgnotifier.errors import ConfigurationError


class BothChanges:
    """Makes changes where a subscription belongs, or in both registries.

    Attributes:
        volatile: Changes the subscriptions that listen.
        durable: Changes the durable ones.
    """

    def __init__(self, owner: Owner, lifecycle: Lifecycle, autorun: bool | None) -> None:
        """Take what `Changes` takes."""
        self.volatile = Changes(owner, lifecycle, autorun)
        self.durable = DurableChanges(owner, lifecycle, autorun)

    def of(self, id: Hashable, channel: str, *, durable: bool) -> Changes:
        """Return what changes a subscription of one kind.

        Raises:
            ConfigurationError: The id is subscribed to the channel in the other way.
        """
        own, other = (self.durable, self.volatile) if durable else (self.volatile, self.durable)
        if other.has(id, channel):
            raise ConfigurationError(
                f"subscription {id!r:.80} on channel {channel!r} is "
                f"{'not ' if durable else ''}durable; unsubscribe it first"
            )
        return own

    def remove_channels(self, names: list[str], autorun: bool) -> None:
        """Remove channels: see `Notifier.remove_channels`."""
        for one in (self.volatile, self.durable):
            one.remove_channels(names, autorun)

    def unsubscribe(self, id: Hashable, channel: str, autorun: bool) -> None:
        """Remove a subscription: see `Notifier.unsubscribe`."""
        for one in (self.volatile, self.durable):
            one.unsubscribe(id, channel, autorun)

    def mute_channels(self, names: list[str] | None, *, muted: bool) -> None:
        """Mute or unmute channels; None stands for all."""
        for one in (self.volatile, self.durable):
            one.mute_channels(names, muted=muted)

    def mute_subscriber(self, id: Hashable, names: list[str] | None, *, muted: bool) -> None:
        """Mute or unmute an id on channels; None stands for all."""
        for one in (self.volatile, self.durable):
            one.mute_subscriber(id, names, muted=muted)
