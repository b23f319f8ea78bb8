"""The registry's one writer: each change makes a new registry, and ends what it replaced."""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgnotifier._registry.registry import Registry
from pgnotifier._registry.spelling import Spelling
from pgnotifier.dispatch import Binding, Dispatcher, Report, Subscription
from pgnotifier.errors import PgNotifierError

Key = tuple[Hashable, str]
"""An id and a channel, which identify a subscription."""


@dataclass(slots=True, eq=False)
class Tentative:
    """A channel that was added, and that the server hasn't accepted yet.

    Attributes:
        waiting: How many calls wait for its LISTEN. It goes if all of them are refused.
    """

    waiting: int = 0


Claim = Mapping[str, Tentative]
"""The tentative channels that a call waits for, by name."""


@dataclass(slots=True, eq=False)
class Change:
    """A subscription on its way into the registry, until the server has accepted its channel.

    Attributes:
        id: Its id.
        channel: Its channel.
        before: What had that id and channel, and has it again if the server refuses.
        undoing: The change that it undoes, if it does.
        is_overtaken: Whether another thread has changed the same since.
        subscription: What was put into the registry; None until then.
        former: The change that put `before` there, if the server hasn't accepted that either.
        claim: Its channel, if that is tentative.
        is_refused: Whether the server has refused.
        is_settled: Whether it has accepted.
    """

    id: Hashable
    channel: str
    before: Subscription | None
    undoing: "Change | None" = None
    is_overtaken: bool = False
    subscription: Subscription | None = None
    former: "Change | None" = None
    claim: Claim = field(default_factory=dict)
    is_refused: bool = False
    is_settled: bool = False

    @property
    def key(self) -> Key:
        """What identifies it."""
        return self.id, self.channel


@dataclass(frozen=True, slots=True)
class Bound:
    """A subscription that its dispatcher has bound, and the one that gets its gaps, if any."""

    subscription: Subscription
    target: Any
    for_gaps: Subscription | None = None
    gap_target: Any = None


class Registrar:
    """Holds the registry of a notifier and writes it, under the notifier's lock.

    Dispatchers are called without that lock. So to subscribe takes three steps, and is done again
    if another thread has changed the same subscription between the first and the last.

    Attributes:
        registry: As it is now. Anyone may read it, without the lock.
        spelling: What is to be said of new channels; its `warn` is to be called without the lock.
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
        self.spelling = Spelling()
        self._changes: set[Change] = set()
        self._tentative: dict[str, Tentative] = {}
        self._unsettled: dict[Key, Change] = {}  # the latest of each, while the server is asked
        self._leaving: deque[tuple[Key, Subscription]] = deque()
        self._uses: Counter[Dispatcher] = Counter()  # subscriptions, by dispatcher
        self._unused: set[Dispatcher] = set()  # since `take_unused`; some may be used again

    def add(self, channels: Iterable[str]) -> Claim:
        """Add channels; `accept` or `give_up` follows for those that the server is to accept."""
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
        """Keep channels, as the server listens to them, or is to when it is connected to."""
        for name, one in claim.items():
            if self._tentative.get(name) is one:
                del self._tentative[name]

    def give_up(self, claim: Claim) -> None:
        """Remove channels that the server has refused, unless others want them."""
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
            undoing: The change that this undoes; should something else be there by the end,
                nothing is done. Default: this is no such.
        """
        change = Change(id, channel, self._find(id, channel), undoing)
        self._changes.add(change)
        return change

    def bind(self, subscription: Subscription, change: Change, *, again: bool = False) -> Bound:
        """Have a subscription's dispatcher bind it. To be called without the lock.

        A dispatcher may wait for a lock of its queue's client, whose holder subscribes.

        Args:
            subscription: What is to be subscribed.
            change: What `begin` returned.
            again: Whether it was bound before, and `complete` came too late.

        Raises:
            PgNotifierError: The dispatcher refuses it; nothing has changed.
        """
        by, for_gaps, gap_target = subscription.dispatcher, subscription.for_gaps(), None
        bound: list[Subscription] = [subscription] if again else []
        try:
            if for_gaps is not None:
                gap_target = by.bind(for_gaps)
                bound.append(for_gaps)
            target = by.bind(subscription)
        except BaseException:
            self._changes.discard(change)
            self._leaving.extend((change.key, one) for one in bound)
            self._unused.add(by)
            raise
        return Bound(subscription, target, for_gaps, gap_target)

    def complete(self, change: Change, bound: Bound) -> bool:
        """Put what was bound into the registry, in the place of what has its id and channel.

        Returns:
            False if another thread has changed the same subscription since `begin`. Then nothing
            is done, and all is to be done again: the dispatcher may have seen ours first.
        """
        self._changes.discard(change)
        if change.is_overtaken:
            return False
        if change.undoing is None:
            change.former = self._unsettled.get(change.key)
            change.subscription = bound.subscription
            change.claim = self.add([change.channel])
            self._replace(bound)
            self._unsettled[change.key] = change
        elif (
            not self.holds(change.undoing) or self.refuse(change.undoing) is not bound.subscription
        ):
            made = (one for one in (bound.for_gaps, bound.subscription) if one is not None)
            self._leaving.extend((change.key, one) for one in made)
        else:
            self._replace(bound)
            self._settle(change.undoing)
        return True

    def settle(self, change: Change) -> None:
        """End a change: the server listens to its channel, or is to when it is connected to."""
        self.accept(change.claim)
        change.former, change.is_settled = None, True
        self._settle(change)

    def refuse(self, change: Change) -> Subscription | None:
        """Note that the server has refused a change; return what is to be there instead.

        That is what was before it, unless the server has refused that as well, meanwhile.
        """
        change.is_refused = True
        while change.former is not None and change.former.is_refused:
            change.before, change.former = change.former.before, change.former.former
        return change.before

    def holds(self, change: Change) -> bool:
        """Return whether what a change has made is there still; it may have been muted."""
        now, made = self._find(change.id, change.channel), change.subscription
        # Each call of `subscribe()` has options of its own, which muting leaves as they are.
        return now is not None and made is not None and now.options is made.options

    def take_back(self, change: Change) -> None:
        """Remove what was completed where nothing was before, unless it was changed since."""
        if self.holds(change):
            left = self.registry.unbind(change.id, change.channel)
            # `give_up` follows, and removes a channel that nobody else has wanted.
            self._swap(left.add([change.channel]), [change.channel])
        self._settle(change)

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
            after = after.for_gaps()
        if after is None or after.dispatcher is not by:
            by.unbind(subscription)
        else:
            with contextlib.suppress(PgNotifierError):
                by.bind(after)

    def forgotten(self, change: Change, subscription: Subscription) -> None:
        """End what `next_leaving` began, or have it done again if the same has changed since."""
        self._changes.discard(change)
        self._overtake({change.key})  # its dispatcher may have bound it before we had it unbound
        if change.is_overtaken:
            self._leaving.append((change.key, subscription))

    def take_unused(self) -> set[Dispatcher]:
        """Return the dispatchers that have lost their last subscription since the last call."""
        taken, self._unused = self._unused, set()
        return {one for one in taken if one not in self._uses}

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

    def _find(self, id: Hashable, channel: str) -> Subscription | None:
        binding = self.registry.binding(id, channel)
        return None if binding is None else binding.subscription

    def _settle(self, change: Change) -> None:
        """Have the change before one be the latest that the server is asked about, if any."""
        if self._unsettled.get(change.key) is change:
            del self._unsettled[change.key]
            if change.former is not None and not change.former.is_settled:
                self._unsettled[change.key] = change.former

    def _overtake(self, keys: set[Key]) -> None:
        for change in tuple(self._changes):
            if change.key in keys:
                change.is_overtaken = True

    def _replace(self, bound: Bound) -> None:
        """Put a subscription in the place of the one with its id and channel, if there is one."""
        subscription = bound.subscription
        before = self.registry.binding(subscription.id, subscription.channel)
        former = None if before is None else before.subscription
        former_gaps = None if before is None else before.on_gap
        if former is not None:
            subscription = replace(subscription, muted=former.muted)
        # In place, if that can be: of `on_gap` before it is looked for anew.
        on_gap = None
        if bound.for_gaps is not None:
            on_gap = self._successor(former_gaps, bound.for_gaps, bound.gap_target)
        binding = self._successor(before, subscription, bound.target)
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
        """Return the binding before, changed in place, or a new one."""
        if before is not None and before.can_become(subscription):
            before.become(subscription, target)
            return before
        return Binding(subscription, target, self._report)

    def _leave(
        self, former: Subscription, former_gaps: Binding | None, now: Subscription | None
    ) -> None:
        """Note what a dispatcher is to forget: what it delivers to no more."""
        key, by = (former.id, former.channel), former.dispatcher
        stays = now is not None and now.dispatcher is by
        if not stays:
            self._leaving.append((key, former))
        if former_gaps is not None and not (stays and now is not None and now.on_gap is not None):
            self._leaving.append((key, former_gaps.subscription))

    def _swap(self, registry: Registry, channels: Iterable[str]) -> None:
        """Replace the registry, and end the bindings on these channels that it has no more."""
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
        """Have the bindings on these channels be live, but for those that are muted."""
        for channel in channels:
            silent = registry.is_muted(channel)
            for binding in registry.bindings(channel):
                binding.live = not (silent or binding.subscription.muted)
                if binding.on_gap is not None:
                    binding.on_gap.live = binding.live
