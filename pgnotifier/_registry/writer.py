"""The only writer of the registry of subscriptions: each change replaces it with a new one."""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from typing import Any

from pgnotifier._registry.change import Change, Claim, Key, Tentative
from pgnotifier._registry.registry import Registry
from pgnotifier._registry.spelling import Spelling
from pgnotifier.dispatch import Binding, Dispatcher, Report, Subscription
from pgnotifier.errors import PgNotifierError


class Registrar:
    """Holds the current registry of a notifier, and replaces it on each change.

    Methods are called under the notifier's lock, except for `bind` and `unbind`, which call a
    dispatcher. So subscribing takes three steps: `begin`, `bind` and `complete`. They are repeated
    if another thread has changed the same subscription between the first and the last step.

    Attributes:
        registry: The current registry. Any thread may read it without the lock.
        spelling: Warnings about names of new channels. Call its `warn` without the lock.
    """

    def __init__(
        self, report: Report, on_successor: Callable[[Binding], object] = lambda _: None
    ) -> None:
        """Begin with an empty registry.

        Args:
            report: Called with each delivery that fails.
            on_successor: Called with each binding that gets a successor.
        """
        self.registry = Registry()
        self._report = report
        self._on_successor = on_successor
        self.spelling = Spelling()
        self._changes: set[Change] = set()
        self._tentative: dict[str, Tentative] = {}
        self._unsettled: dict[Key, Change] = {}  # the latest of each, until the server answers
        self._leaving: deque[tuple[Key, Subscription]] = deque()
        self._uses: Counter[Dispatcher] = Counter()  # subscriptions, by dispatcher
        self._unused: set[Dispatcher] = set()  # since `take_unused`; some may be in use again

    def add(self, channels: Iterable[str]) -> Claim:
        """Add channels, and return which of them are tentative; `accept` or `give_up` follows."""
        names = list(channels)
        new = [name for name in names if name not in self.registry]
        self.registry = self.registry.add(new)
        for name in new:
            self._tentative[name] = Tentative()
            self.spelling.check(name, self.registry)
        claim = {name: self._tentative[name] for name in names if name in self._tentative}
        for one in claim.values():
            one.waiting += 1
        return claim

    def accept(self, claim: Claim) -> None:
        """Keep channels: the server listens to them, or will when it is connected to."""
        for name, one in claim.items():
            if self._tentative.get(name) is one:
                del self._tentative[name]

    def give_up(self, claim: Claim) -> None:
        """Remove channels that the server has refused, unless other calls still wait for them."""
        for name, one in claim.items():
            one.waiting -= 1
            if self._tentative.get(name) is one and not one.waiting:
                del self._tentative[name]
                if not self.registry.bindings(name):
                    self.remove([name])

    def remove(self, channels: Iterable[str]) -> None:
        """Remove channels, with their subscriptions."""
        names = list(channels)
        self._swap(self.registry.remove(names), names)

    def begin(self, id: Hashable, channel: str, undoing: Change | None = None) -> Change:
        """Begin to subscribe an id to a channel; `bind` and `complete` follow.

        Args:
            id: The id.
            channel: The channel.
            undoing: The change that this one undoes, if any. If that has been replaced by the time
                that `complete` is called, `complete` does nothing.
        """
        change = Change(id, channel, self._find(id, channel), undoing)
        self._changes.add(change)
        return change

    def bind(self, subscription: Subscription, change: Change, *, again: bool = False) -> None:
        """Have a subscription's dispatcher bind it. Called without the lock.

        With the lock, this could deadlock: a dispatcher may wait for a lock of its queue's client,
        and the thread that holds that one may be about to subscribe.

        Args:
            subscription: The subscription.
            change: What `begin` returned.
            again: Whether it was bound before, and `complete` returned False.

        Raises:
            PgNotifierError: The dispatcher refuses it; nothing has changed.
        """
        by, for_gaps = subscription.dispatcher, subscription.for_gaps()
        bound: list[Subscription] = [subscription] if again else []
        try:
            if for_gaps is not None:
                change.gap_target = by.bind(for_gaps)
                bound.append(for_gaps)
            change.target = by.bind(subscription)
        except BaseException:
            self._changes.discard(change)
            self._leaving.extend((change.key, one) for one in bound)
            self._unused.add(by)
            raise
        change.subscription, change.for_gaps = subscription, for_gaps

    def complete(self, change: Change) -> bool:
        """Put what was bound into the registry; it replaces what has the same id and channel.

        Returns:
            False if another thread has changed the same subscription since `begin`. Then nothing
            was done, and the caller begins again, because the dispatcher may have bound the two
            in the other order.
        """
        self._changes.discard(change)
        if change.is_overtaken:
            return False
        if change.undoing is None:
            change.former = self._unsettled.get(change.key)
            change.claim = self.add([change.channel])
            self._replace(change)
            self._unsettled[change.key] = change
        elif (
            not self.holds(change.undoing) or self.refuse(change.undoing) is not change.subscription
        ):
            made = (one for one in (change.for_gaps, change.subscription) if one is not None)
            self._leaving.extend((change.key, one) for one in made)
        else:
            self._replace(change)
            self._settle(change.undoing)
        return True

    def settle(self, change: Change) -> None:
        """End a change: the server listens to its channel, or will when it is connected to."""
        self.accept(change.claim)
        change.former, change.is_settled = None, True
        self._settle(change)

    def refuse(self, change: Change) -> Subscription | None:
        """Note that the server has refused a change; return the subscription to restore, if any.

        That is the one before the change, unless the server has refused that one as well.
        """
        change.is_refused = True
        while change.former is not None and change.former.is_refused:
            change.before, change.former = change.former.before, change.former.former
        return change.before

    def holds(self, change: Change) -> bool:
        """Return whether a change's subscription is still there; it may have been muted."""
        now, made = self._find(change.id, change.channel), change.subscription
        # Each call of `subscribe()` makes a new mapping of options, and muting keeps it.
        return now is not None and made is not None and now.options is made.options

    def take_back(self, change: Change) -> None:
        """Remove a change's subscription that has replaced nothing, unless it was changed since."""
        if self.holds(change):
            left = self.registry.unbind(change.id, change.channel)
            # `give_up` follows, and removes the channel unless other calls have added it, too.
            self._swap(left.add([change.channel]), [change.channel])
        self._settle(change)

    # A dispatcher forgets a removed subscription after the lock has been released. Another thread
    # may have bound the subscription again by then. So removing takes three steps as well:
    # `next_leaving`, `unbind` and `forgotten`.

    def next_leaving(self) -> tuple[Change, Subscription] | None:
        """Return a subscription that its dispatcher has to forget; None if there is none."""
        if not self._leaving:
            return None
        key, subscription = self._leaving.popleft()
        return self.begin(*key), subscription

    def unbind(self, subscription: Subscription, change: Change) -> None:
        """Have a dispatcher forget a subscription. Called without the lock, as `bind` is.

        If the subscription is the dispatcher's again by now, it is bound again instead.
        """
        by, after = subscription.dispatcher, change.before
        if after is not None and subscription.delivers_gaps:
            after = after.for_gaps()
        if after is None or after.dispatcher is not by:
            by.unbind(subscription)
        else:
            with contextlib.suppress(PgNotifierError):
                by.bind(after)

    def forgotten(self, change: Change, subscription: Subscription) -> None:
        """End what `next_leaving` began; repeat it if the same subscription has changed since."""
        self._changes.discard(change)
        self._overtake({change.key})  # another thread may have bound it before this unbound it
        if change.is_overtaken:
            self._leaving.append((change.key, subscription))

    def uses(self, dispatcher: Dispatcher) -> bool:
        """Return whether a dispatcher has a subscription."""
        return dispatcher in self._uses

    def take_unused(self) -> set[Dispatcher]:
        """Return the dispatchers that have lost their last subscription since the last call."""
        taken, self._unused = self._unused, set()
        return {one for one in taken if one not in self._uses}

    def unsubscribe(self, id: Hashable, channel: str) -> bool:
        """Remove a subscription; return whether it was the last one and its channel is removed."""
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

    def _find(self, id: Hashable, channel: str) -> Subscription | None:
        binding = self.registry.binding(id, channel)
        return None if binding is None else binding.subscription

    def _settle(self, change: Change) -> None:
        """Remove a change from the unsettled ones, and put the change before it there, if any."""
        if self._unsettled.get(change.key) is change:
            del self._unsettled[change.key]
            if change.former is not None and not change.former.is_settled:
                self._unsettled[change.key] = change.former

    def _overtake(self, keys: set[Key]) -> None:
        for change in tuple(self._changes):
            if change.key in keys:
                change.is_overtaken = True

    def _replace(self, change: Change) -> None:
        """Put a subscription into the registry; it replaces the one with its id and channel."""
        subscription = change.subscription
        assert subscription is not None
        before = self.registry.binding(subscription.id, subscription.channel)
        former = None if before is None else before.subscription
        former_gaps = None if before is None else before.on_gap
        if former is not None:
            subscription = replace(subscription, muted=former.muted)
        # In place where possible, so that waiting deliveries go to the new callback.
        on_gap = None
        if change.for_gaps is not None:
            on_gap = self._successor(former_gaps, change.for_gaps, change.gap_target)
        binding = self._successor(before, subscription, change.target)
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
                self._on_successor(old)
        # Last, so that deliverers know about a successor before something arrives for it.
        self.registry = registry
        self._overtake({(subscription.id, subscription.channel)})
        self._uses[subscription.dispatcher] += 1
        if former is not None:
            self._release(former.dispatcher)
            self._leave(former, former_gaps, subscription)

    def _release(self, dispatcher: Dispatcher) -> None:
        self._uses[dispatcher] -= 1
        if not self._uses[dispatcher]:
            del self._uses[dispatcher]
            self._unused.add(dispatcher)

    def _successor(
        self, before: Binding | None, subscription: Subscription, target: Any
    ) -> Binding:
        """Return the previous binding, changed in place, if possible; otherwise a new one."""
        if before is not None and before.can_become(subscription):
            before.become(subscription, target)
            return before
        return Binding(subscription, target, self._report)

    def _leave(
        self, former: Subscription, former_gaps: Binding | None, now: Subscription | None
    ) -> None:
        """Note what a dispatcher has to forget, because it no longer delivers to it."""
        key, by = (former.id, former.channel), former.dispatcher
        stays = now is not None and now.dispatcher is by
        if not stays:
            self._leaving.append((key, former))
        if former_gaps is not None and not (stays and now is not None and now.on_gap is not None):
            self._leaving.append((key, former_gaps.subscription))

    def _swap(self, registry: Registry, channels: Iterable[str]) -> None:
        """Replace the registry, and end the bindings on these channels that it has lost."""
        before, self.registry = self.registry, registry
        for channel in channels:
            if channel not in registry:
                self._tentative.pop(channel, None)
            for binding in before.bindings(channel):
                if registry.binding(binding.id, channel) is None:
                    binding.live = False
                    if binding.on_gap is not None:
                        binding.on_gap.live = False
                    self._overtake({(binding.id, channel)})
                    self._unsettled.pop((binding.id, channel), None)
                    self._release(binding.dispatcher)
                    self._leave(binding.subscription, binding.on_gap, None)
        self._mute(registry, channels)

    def _mute(self, registry: Registry, channels: Iterable[str]) -> None:
        """Make the bindings on these channels live, except for muted ones."""
        for channel in channels:
            silent = registry.is_muted(channel)
            for binding in registry.bindings(channel):
                was_live = binding.live
                binding.live = not (silent or binding.subscription.muted)
                binding.mutes += was_live and not binding.live
                if binding.on_gap is not None:
                    binding.on_gap.live = binding.live
