"""The registry: which subscriptions each channel has, as an immutable value."""

from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import ref

from rpds import HashTrieMap

from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import ArgumentTypeError, ChannelNameError
from pgnotifier.gathering import Gathering
from pgnotifier.notification import Notification

if TYPE_CHECKING:
    from pgnotifier.dispatch import Delivery

MAX_CHANNEL_BYTES = 63
"""NAMEDATALEN - 1. LISTEN cuts a longer name with no more than a notice."""

Report = Callable[[BaseException, "Subscription", Notification], None]


@dataclass(frozen=True, slots=True)
class Subscription:
    """An id and a channel bound to a callback or signature and its dispatcher.

    Attributes:
        id: Any hashable; unique on its channel.
        channel: The channel's name.
        fn: The callback, or what the dispatcher takes instead (a Celery signature, say).
        dispatcher: What delivers to it.
        options: The dispatcher's options, as given to `subscribe()`.
        muted: Whether this subscription is muted; its channel may be, besides.
        gathering: How many notifications become one delivery, if so.
        on_gap: The same as `fn`, but for gaps; None if it isn't told of them.
        tells_gaps: Whether it is itself another one's `on_gap`.
    """

    id: Hashable
    channel: str
    fn: Any
    dispatcher: Dispatcher
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    muted: bool = False
    gathering: Gathering | None = None
    on_gap: Any = None
    tells_gaps: bool = False

    def for_gaps(self) -> "Subscription | None":
        """Return the subscription that is told of gaps, with the id `(id, "gap")`."""
        if self.on_gap is None:
            return None
        parts = self.id if isinstance(self.id, tuple) else (self.id,)
        return replace(
            self, id=(*parts, "gap"), fn=self.on_gap, gathering=None, on_gap=None, tells_gaps=True
        )


class Binding:
    """A subscription together with the target that its dispatcher made of it.

    What waits for a subscription holds its binding. So subscribing the id anew changes the
    binding in place, and what waits goes to the new callback. Where that can't be, because another
    dispatcher or another way of gathering is to deliver, the binding gets an heir, and its
    deliverer hands on to that what waits.

    Written under the notifier's lock; dispatchers read it without.

    Attributes:
        id: The subscription's id, for quick access.
        subscription: The subscription.
        gathering: The subscription's, for quick access.
        target: What `Dispatcher.bind` returned.
        report: Called with an exception, the subscription and the notification.
        on_gap: What gets a gap, if anything does.
        live: Whether it is delivered to. False while the subscription or its channel is muted,
            and for ever once it was removed or there is an heir.
        heir: The binding of the same id and channel that what waits is for.
        former: The binding whose heir this is, for as long as something waits for that.
        passed_on: What a dispatcher didn't deliver, as there is an heir.
        is_left: Whether the deliverer knows of the heir. Written by the deliverer.
    """

    __slots__ = (
        "__weakref__",
        "former",
        "gathering",
        "heir",
        "id",
        "is_left",
        "live",
        "on_gap",
        "passed_on",
        "report",
        "subscription",
        "target",
    )

    def __init__(
        self,
        subscription: Subscription,
        target: Any,
        report: Report,
        on_gap: "Binding | None" = None,
    ) -> None:
        self.id = subscription.id
        self.subscription = subscription
        self.gathering = subscription.gathering
        self.target = target
        self.report = report
        self.on_gap = on_gap
        self.live = True
        self.heir: Binding | None = None
        self.former: ref[Binding] | None = None
        self.passed_on: deque[Delivery] = deque()
        self.is_left = False

    @property
    def dispatcher(self) -> Dispatcher:
        """What delivers to it."""
        return self.subscription.dispatcher

    def earliest(self, dispatchers: Container[Dispatcher]) -> "Binding":
        """Return the binding that something still waits for, and which this is heir to in the end.

        Args:
            dispatchers: Those with a deliverer.

        Returns:
            The earliest; this one if there is none, or all are of its own dispatcher.
        """
        found, changes, one = self, False, self
        while one.former is not None and (before := one.former()) is not None:
            one = before
            changes = changes or one.dispatcher is not self.dispatcher
            if one.dispatcher in dispatchers:
                found = one
        return found if changes else self

    def can_become(self, subscription: Subscription) -> bool:
        """Return whether what waits can be delivered as another subscription wants it."""
        return (
            subscription.dispatcher is self.subscription.dispatcher
            and subscription.gathering == self.gathering
        )

    def become(self, subscription: Subscription, target: Any) -> None:
        """Stand for another subscription with the same id and channel from now on."""
        self.subscription = subscription
        self.target = target

    def leave_to(self, heir: "Binding") -> None:
        """Have what waits go to another binding. Its deliverer is to be woken afterwards."""
        heir.former = ref(self)
        self.heir = heir
        self.live = False


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


def check_channel(name: object) -> str:
    """Return the name if PostgreSQL can LISTEN to it.

    Raises:
        ArgumentTypeError: It isn't a str.
        ChannelNameError: It is empty, over 63 bytes of UTF-8, holds NUL, or isn't Unicode.
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"a channel is a str, not {type(name).__name__}: {name!r:.80}")
    if not name:
        raise ChannelNameError("a channel name can't be empty")
    if "\x00" in name:
        raise ChannelNameError(f"channel {name!r:.80} holds NUL, which PostgreSQL refuses")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ChannelNameError(f"channel {name!r:.80} holds a lone surrogate") from None
    if size > MAX_CHANNEL_BYTES:
        raise ChannelNameError(
            f"channel {name!r:.80} has {size} bytes; PostgreSQL takes {MAX_CHANNEL_BYTES} at most"
        )
    return name


def check_channels(channels: object) -> list[str]:
    """Return the names in a str or an iterable of str, checked, in order, each once."""
    if isinstance(channels, str):
        return [check_channel(channels)]
    if not isinstance(channels, Iterable) or isinstance(channels, bytes | bytearray):
        raise ArgumentTypeError(
            f"channels are a str or an iterable of str, not {type(channels).__name__}"
        )
    return list(dict.fromkeys(check_channel(name) for name in channels))


def check_id(id: object) -> Hashable:
    """Return the id if it can be one.

    Raises:
        ArgumentTypeError: It isn't hashable.
    """
    try:
        hash(id)
    except TypeError as exc:
        raise ArgumentTypeError(
            f"a subscription id must be hashable, which {id!r:.80} is not ({exc}); "
            "use a tuple or frozenset instead of a list or set"
        ) from None
    return id
