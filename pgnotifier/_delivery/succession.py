"""Succession: deliveries that wait for a subscription go to the one that has replaced it.

An id that is subscribed again keeps its binding, unless another dispatcher or another way of
gathering is to deliver from now on. Then the binding gets a successor. Its deliverer takes back
what is on its way, and hands it on in order: to itself, in the shape that the successor expects, or
to the other dispatcher's deliverer.
"""

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Protocol

from pgnotifier._delivery.batching import Gatherer, shape
from pgnotifier._delivery.buffer import Buffer, GapMarker, Item
from pgnotifier._delivery.ending import Ending
from pgnotifier.dispatch import Binding, Delivery, Dispatcher
from pgnotifier.notification import Notification


class Successor(Protocol):
    """The deliverer of another dispatcher, which takes over what waits."""

    def take_over(self, item: Item | GapMarker) -> bool: ...


class Succession:
    """The successors of the bindings that a deliverer delivers to.

    Any thread may call `note`. The deliverer's thread calls the rest.

    Attributes:
        find: Returns the deliverer of a dispatcher, which is made if there is none. None: there is
            no other deliverer.
        helped: The dispatchers that this deliverer has delivered to because theirs had ended.
        news: The bindings that have got a successor since the last `take_back`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        ending: Ending,
        buffer: Buffer,
        gatherer: Gatherer,
        decode: Callable[[Binding, Item], Delivery | None],
        deliver: Callable[[Delivery], None],
    ) -> None:
        """Begin without a successor.

        Args:
            dispatcher: The deliverer's dispatcher.
            ending: Guards its buffer; its bell is rung when there is something to do.
            buffer: What waits undecoded.
            gatherer: What is held back.
            decode: Makes a delivery of an item, or reports that it can't.
            deliver: Has another dispatcher deliver, in place of its own deliverer.
        """
        self.find: Callable[[Dispatcher], Successor] | None = None
        self.helped: set[Dispatcher] = set()
        self.news: list[Binding] = []
        self._dispatcher = dispatcher
        self._ending = ending
        self._buffer = buffer
        self._gatherer = gatherer
        self._decode = decode
        self._deliver = deliver
        self._have_been = False  # any successors

    def note(self, binding: Binding) -> None:
        """Note that a binding has a successor."""
        with self._ending.bell.lock:
            self._have_been = True
            if binding not in self.news:
                self.news.append(binding)
            self._ending.bell.ring()

    def follow(self, binding: Binding) -> Binding:
        """Return the binding to deliver to now, as far as this deliverer may know."""
        while binding.successor is not None and self.serves(binding):
            if not binding.is_left:  # not yet: what the dispatcher already has comes first
                self.note(binding)
                break
            binding = binding.successor
        return binding

    def serves(self, binding: Binding) -> bool:
        """Return whether a binding belongs to the deliverer's own dispatcher."""
        return binding.subscription.dispatcher is self._dispatcher

    def take_back(self, deliveries: list[Delivery], left: Iterable[Delivery] = ()) -> int:
        """Hand what is under way for replaced bindings to their successors.

        Args:
            deliveries: What to add to.
            left: What was about to be dispatched, for these and for other bindings.

        Returns:
            How many deliveries the dispatcher has given back.
        """
        back = self._take_back_dispatched()
        # Taken before a successor is given anything: if room is short, that may close what is held.
        gathered = self._gatherer.take_left()
        retried = [one for one in left if one.binding.is_left and id(one) not in back]
        self.give((*back.values(), *retried, *gathered), deliveries)
        return len(back)

    def give(self, given: Iterable[Delivery], deliveries: list[Delivery]) -> None:
        """Add deliveries as if they had just arrived, for the bindings that they are for by now."""
        for one in given:
            for binding, arrived in self._split(one):
                delivery = one if binding is one.binding else Delivery(binding, arrived)
                if not self.serves(binding):
                    self.forward(binding, delivery)
                elif binding.gathering is None:
                    deliveries.append(delivery)
                else:
                    self.gather(delivery, deliveries)

    def gather(self, delivery: Delivery, deliveries: list[Delivery]) -> None:
        """Hold a delivery back; add those that are due because of it."""
        if not (delivery.binding.live or delivery.binding.successor):
            return
        try:
            deliveries.extend(self._gatherer.add(delivery, monotonic()))
        except BaseException as exc:  # noqa: BLE001 - a user's key
            delivery.report(exc)

    def forward(self, binding: Binding, item: Item | Delivery) -> None:
        """Hand on to another deliverer. If that has ended, deliver in its place."""
        if self._hand_on(binding, item):
            return
        delivery = item if isinstance(item, Delivery) else self._decode(binding, item)
        if delivery is not None:
            self._deliver(self._stand_in(binding, delivery.notification))

    def forward_waiting(self) -> None:
        """Hand on what is for other dispatchers, so that it doesn't wait for this one."""
        if not self._have_been:
            return
        with self._ending.bell.lock:
            items = self._buffer.extract(lambda one: not self.serves(self.follow(one)))
        for item in items:
            binding = item.binding if isinstance(item, Delivery) else item.bindings[0]
            self.forward(self.follow(binding), item)

    def _take_back_dispatched(self) -> dict[int, Delivery]:
        """Return what the dispatcher has for bindings with a successor, by its identity.

        From now on the dispatcher gets nothing more for these bindings. Until now it did, even in
        the middle of a batch, so that later deliveries don't overtake what it passes on.
        """
        with self._ending.bell.lock:
            news, self.news = self.news, []
        for binding in news:
            binding.is_left = True
        back: dict[int, Delivery] = {}  # as what is retried may be passed on twice
        for binding in news:
            pending = self._dispatcher.take_back(binding)
            # In this order: a dispatcher that has given back passes nothing on any more.
            back |= {id(one): one for one in (*binding.passed_on, *pending)}
            binding.passed_on.clear()
        return back

    def _split(self, delivery: Delivery) -> Iterable[tuple[Binding, Notification]]:
        """Yield what a delivery was made of, each with the binding that it is for now."""
        binding, arrived = self.follow(delivery.binding), delivery.notification
        parts = (arrived,) if binding is delivery.binding else (arrived.parts or (arrived,))
        return ((binding, part) for part in parts)

    def _hand_on(self, binding: Binding, item: Item | Delivery) -> bool:
        """Hand on to another dispatcher's deliverer; return False if that has ended."""
        if self.find is None:
            return False
        handed: Item | GapMarker
        if isinstance(item, Delivery):
            handed = GapMarker([Delivery(binding, item.notification)])
        else:
            handed = item.for_bindings((binding,))
        found = self.find(binding.dispatcher)
        if found.take_over(handed):
            return True
        successor = self.find(binding.dispatcher)  # if the one that was found has just retired
        return successor is not found and successor.take_over(handed)

    def _stand_in(self, binding: Binding, arrived: Notification) -> Delivery:
        """Return the delivery that a deliverer which has ended would have dispatched."""
        binding = binding.latest()
        self.helped.add(binding.subscription.dispatcher)
        return shape(Delivery(binding, arrived))
