"""Decoding: notifications that waited become deliveries with a payload."""

from collections.abc import Callable, Iterable
from typing import Any

from pgnotifier._delivery.buffer import GapMarker, Item
from pgnotifier._delivery.succession import Succession
from pgnotifier.dispatch import Binding, Delivery
from pgnotifier.notification import Arrival
from pgnotifier.payload import decode as usual_decode
from pgnotifier.payload import decode_bytes

_IMMUTABLE = frozenset({str, int, float, bool, type(None), bytes, complex})
_UNDECODED: Any = object()


class Decoder:
    """Makes deliveries of what was taken out of a buffer. Owned by the deliverer's thread."""

    def __init__(self, decode: Callable[[str], Any]) -> None:
        """Take what makes a payload of a text."""
        # The usual decoder takes the bytes, which saves making a text of them.
        self.read = decode_bytes
        if decode is not usual_decode:
            self.read = lambda data: decode(data.decode("utf-8", "surrogateescape"))

    def decode(self, binding: Binding, item: Item) -> Delivery | None:
        """Return the delivery of one item for one binding; report it if it can't be decoded."""
        try:
            payload = self.read(item.data)
        except BaseException as exc:  # noqa: BLE001 - a user's decoder
            _report(binding, item, exc)
            return None
        return Delivery(binding, item.arrival(payload))

    def decode_items(
        self,
        items: Iterable[Item | GapMarker],
        deliveries: list[Delivery],
        succession: Succession,
    ) -> None:
        """Add the deliveries of some items; hand on those that are for other dispatchers.

        Args:
            items: What was taken out of the buffer.
            deliveries: What to add to.
            succession: Has the bindings that an item is for by now.
        """
        read = self.read
        for item in items:
            if isinstance(item, GapMarker):
                succession.give(item.deliveries, deliveries)
                continue
            payload = _UNDECODED
            data: Any = item.data  # an arrival makes its text of this when it is asked for it
            for one in item.bindings:
                binding = one
                if one.successor is not None:
                    binding = succession.follow(one)
                    if not succession.serves(binding):
                        succession.forward(binding, item)
                        continue
                # Each callback gets a payload of its own unless that is immutable, so that none
                # sees what another one has done to its dict.
                if type(payload) not in _IMMUTABLE:
                    try:
                        payload = read(data)
                    except BaseException as exc:  # noqa: BLE001 - a user's decoder
                        _report(binding, item, exc)
                        continue
                arrival = Arrival(item.channel, payload, data, item.pid, item.received_at)
                delivery = Delivery(binding, arrival)
                if binding.gathering is None:
                    deliveries.append(delivery)
                else:
                    succession.gather(delivery, deliveries)


def _report(binding: Binding, item: Item, exc: BaseException) -> None:
    """Report a payload that can't be decoded."""
    Delivery(binding, item.arrival(None)).report(exc)
