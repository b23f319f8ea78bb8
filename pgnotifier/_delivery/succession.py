"""Succession: what waits for a binding goes to its heir.

An id that is subscribed anew keeps its binding, unless another dispatcher or another way of
gathering is to deliver from now on. Then its deliverer takes back what is on its way, and hands it
on in order: to itself, in the shape that the heir expects, or to the other dispatcher's deliverer.
"""

from typing import TYPE_CHECKING, Protocol

from pgnotifier._delivery.batching import Gatherer, shape
from pgnotifier._delivery.buffer import Buffer, GapMarker, Item, bindings_of, with_bindings
from pgnotifier._runtime.sync import Bell
from pgnotifier.dispatch import Delivery, Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgnotifier.dispatch import Binding
    from pgnotifier.notification import Notification


class Successor(Protocol):
    """The deliverer of another dispatcher, which is handed what waits."""

    def take_over(self, item: Item | GapMarker) -> bool: ...


class Succession:
    """The heirs of the bindings that a deliverer delivers to.

    Any thread may call `note`; the rest is the deliverer's thread's.

    Attributes:
        find: Returns the deliverer of a dispatcher, which is made if there is none.
        helped: The dispatchers whose deliverer had ended when something was handed on to it.
    """

    def __init__(
        self, dispatcher: Dispatcher, bell: Bell, buffer: Buffer, gatherer: Gatherer
    ) -> None:
        """Take what belongs to the deliverer.

        Args:
            dispatcher: Its dispatcher.
            bell: Guards its buffer, and is rung when there is something to do.
            buffer: What waits undecoded.
            gatherer: What is held back.
        """
        self.find: Callable[[Dispatcher], Successor | None] = lambda _: None
        self.helped: set[Dispatcher] = set()
        self._dispatcher = dispatcher
        self._bell = bell
        self._buffer = buffer
        self._gatherer = gatherer
        self._news: list[Binding] = []
        self._have_been = False

    @property
    def has_news(self) -> bool:
        """Whether there is an heir that `take_back` hasn't seen to."""
        return bool(self._news)

    def note(self, binding: "Binding") -> None:
        """Learn that a binding has an heir."""
        with self._bell.lock:
            self._have_been = True
            if binding not in self._news:
                self._news.append(binding)
            self._bell.ring()

    def take_back(self) -> dict[int, Delivery]:
        """Return what was on its way to the dispatcher for bindings with an heir, by its identity.

        Nothing more is handed to the dispatcher for these from now on. Until now it was, in the
        midst of a batch as well: what comes later must not overtake what it passes on.
        """
        with self._bell.lock:
            news, self._news = self._news, []
        for binding in news:
            binding.is_left = True
        back: dict[int, Delivery] = {}  # as what is retried may be passed on twice
        for binding in news:
            pending = self._dispatcher.take_back(binding)
            # In this order: a dispatcher that has given back passes nothing on any more.
            back |= {id(one): one for one in (*binding.passed_on, *pending)}
            binding.passed_on.clear()
        return back

    def take_gathered(self) -> list[Delivery]:
        """Return what is held back for bindings with an heir."""
        return self._gatherer.take_left()

    def follow(self, binding: "Binding") -> "Binding":
        """Return the binding that is to be delivered to now, so far as is known here."""
        while binding.heir is not None and self.serves(binding):
            if not binding.is_left:  # not yet: what was handed to the dispatcher comes first
                self.note(binding)
                break
            binding = binding.heir
        return binding

    def serves(self, binding: "Binding") -> bool:
        """Return whether a binding is one of the deliverer's own dispatcher."""
        return binding.subscription.dispatcher is self._dispatcher

    def split(self, delivery: Delivery) -> "Iterable[tuple[Binding, Notification]]":
        """Yield what a delivery was made of, each with the binding that it is for now."""
        binding, arrived = self.follow(delivery.binding), delivery.notification
        parts = (arrived,) if binding is delivery.binding else (arrived.parts or (arrived,))
        return ((binding, part) for part in parts)

    def take_waiting(self) -> "list[tuple[Binding, Item | Delivery]]":
        """Take out of the buffer what is for other dispatchers: this one may be slow, or stuck."""
        if not self._have_been:  # so that there is nothing to look for
            return []
        with self._bell.lock:
            items = self._buffer.extract(lambda one: not self.serves(self.follow(one)))
        return [(self.follow(_binding_of(item)), item) for item in items]

    def forward(self, binding: "Binding", item: Item | Delivery) -> bool:
        """Hand on to another dispatcher's deliverer; return False if that has ended."""
        deliverer = self.find(binding.subscription.dispatcher)
        if deliverer is None:
            return False
        if not isinstance(item, Delivery):
            return deliverer.take_over(with_bindings(item, (binding,)))
        barrier = GapMarker()
        barrier.is_open = True
        barrier.deliveries = (Delivery(binding, item.notification),)
        return deliverer.take_over(barrier)

    def forget_in_child(self, bell: Bell) -> None:
        """Leave all to the parent, in a forked child."""
        self._bell = bell
        self._news.clear()

    def stand_in(self, binding: "Binding", arrived: "Notification") -> Delivery:
        """Return the delivery that a deliverer which has ended would have dispatched."""
        while binding.heir is not None:
            binding = binding.heir
        self.helped.add(binding.subscription.dispatcher)
        return shape(Delivery(binding, arrived))


def _binding_of(item: Item | Delivery) -> "Binding":
    return item.binding if isinstance(item, Delivery) else bindings_of(item)[0]
