"""The base class of the relays that forward messages from outboxes to Celery's or RQ's queues."""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from pgnotifier.dispatch import Dispatcher
from pgnotifier.dispatchers.claiming import claim
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

if TYPE_CHECKING:
    from weakref import ref

    from pgnotifier.dispatch import Subscription
    from pgnotifier.notifier import Notifier

MOST_NAMES = 1000
"""How many tasks or functions are counted by name; the others are counted together."""


class RelayDispatcher(Dispatcher):
    """Forwards the messages of an outbox, by a durable subscription to its reserved channel.

    Attributes:
        name: The name of the outbox.
        channel: The channel of the log.
        id: The id of its subscription.
    """

    starts_listener: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    is_relay: ClassVar[bool] = True

    name: str
    channel: str
    id: str

    def __init__(self, name: str, channel: str, id: str) -> None:
        """Make a relay; nothing is connected yet."""
        self.name, self.channel, self.id = name, channel, id
        self._owner: ref[Notifier] | None = None
        self._relayed: Counter[str] = Counter()
        self._refused = 0

    @property
    def notifier(self) -> "Notifier | None":
        """The notifier that uses this dispatcher; None before one does."""
        return None if self._owner is None else self._owner()

    def relay_to(self, notifier: "Notifier", *, max_age: timedelta | None = None) -> None:
        """Subscribe to the outbox's channel.

        Args:
            notifier: The notifier that is to relay.
            max_age: How long an entry may wait before the notifier counts as not ready. Default:
                what an earlier call for this notifier has set, or any time.

        Raises:
            ConfigurationError: Another notifier uses this dispatcher.
            PgNotifierError: Whatever `Notifier.subscribe` raises.
        """
        before = notifier.get_durability(self.id, self.channel)
        if max_age is None and before is not None:
            max_age = before.max_age
        notifier.subscribe(
            self.id,
            self.channel,
            relay,
            dispatcher=self,
            durable=True,
            start="now",  # whoever enqueues has made the position before
            max_attempts=1,  # what was refused for good would be refused again
            max_age=max_age,
        )

    def attach(self, notifier: "Notifier") -> None:
        """Remember which notifier uses this dispatcher.

        Raises:
            ConfigurationError: Another notifier uses it already.
        """
        self._owner = claim(self, self._owner, notifier)

    def bind(self, subscription: "Subscription") -> Any:
        """Check that the subscription is the one that `relay_to` makes.

        Raises:
            ConfigurationError: It is another one.
        """
        given = (subscription.id, subscription.channel)
        if given != (self.id, self.channel) or subscription.durability is None:
            raise ConfigurationError(
                f"subscription {subscription.id!r:.80}: an {type(self).__name__} only delivers "
                "what relay_to() subscribes"
            )

    def details(self) -> Mapping[str, Any]:
        """Return how many messages were forwarded (by name) and refused since the start."""
        return {
            "outbox": self.name,
            "relayed": dict(self._relayed.copy()),
            "refused": self._refused,
        }

    def count(self, forwarded: Mapping[str, int]) -> None:
        """Add to the counts of what was forwarded."""
        for name, number in forwarded.items():
            is_known = name in self._relayed or len(self._relayed) < MOST_NAMES
            self._relayed[name if is_known else "others"] += number


def check_name(name: Any) -> str:
    """Return the name of an outbox.

    Raises:
        ArgumentTypeError: It isn't a str.
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"the name of an outbox must be a str, not {name!r:.80}")
    return name


def relay(*_: object) -> None:
    """Stand in for the callback of a relay's subscription. It is never called."""
