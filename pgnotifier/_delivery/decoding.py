"""Decoding: turn notifications from the buffer into deliveries with a decoded payload."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from pgnotifier._delivery.buffer import GapMarker, Item, ReferenceItem
from pgnotifier._delivery.succession import Succession
from pgnotifier._log.references import Reference
from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier.dispatch import Binding, Delivery
from pgnotifier.errors import in_one_line
from pgnotifier.notification import Arrival
from pgnotifier.payload import decode as usual_decode
from pgnotifier.payload import decode_bytes

logger = logging.getLogger("pgnotifier.delivery")

FindPayload = Callable[[str, Reference], bytes | None]
"""Returns the payload that a reference stands for, given its channel; None if that is gone."""

_IMMUTABLE = frozenset({str, int, float, bool, type(None), bytes, complex})
_UNDECODED: Any = object()


class Decoder:
    """Makes deliveries of what was taken out of a buffer. Owned by the deliverer's thread."""

    def __init__(
        self,
        decode: Callable[[str], Any],
        find_payload: FindPayload,
        miss: Callable[[Item, str], object],
    ) -> None:
        """Make a decoder.

        Args:
            decode: Makes a payload of a text.
            find_payload: Returns the payload that a reference stands for.
            miss: Called with an item that can't be delivered because its payload is missing, and
                with the reason.
        """
        self._find_payload = find_payload
        self._miss = miss
        self._warn = LogThrottle(logger)
        # The usual decoder takes the bytes, which saves making a text of them.
        self.read = decode_bytes
        if decode is not usual_decode:
            self.read = lambda data: decode(data.decode("utf-8", "surrogateescape"))

    def decode(self, binding: Binding, item: Item) -> Delivery | None:
        """Return the delivery of one item for one binding; report it if it can't be decoded."""
        found = self._resolve(item) if isinstance(item, ReferenceItem) else item
        if found is None:
            return None
        item = found
        try:
            payload = self.read(item.data)
        except BaseException as exc:  # noqa: BLE001 - a user's decoder
            report(binding, item, exc)
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
            succession: Knows the bindings that an item is for by now.
        """
        read = self.read
        for item in items:
            if type(item) is not Item:
                if isinstance(item, GapMarker):
                    succession.give(item.deliveries, deliveries)
                elif isinstance(item, ReferenceItem) and (found := self._resolve(item)):
                    self.decode_items([found], deliveries, succession)
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
                # sees what another one has changed.
                if type(payload) not in _IMMUTABLE:
                    try:
                        payload = read(data)
                    except BaseException as exc:  # noqa: BLE001 - a user's decoder
                        report(binding, item, exc)
                        continue
                arrival = Arrival(item.channel, payload, data, item.pid, item.received_at)
                delivery = Delivery(binding, arrival)
                if binding.gathering is None:
                    deliveries.append(delivery)
                else:
                    succession.gather(delivery, deliveries)

    def _resolve(self, item: ReferenceItem) -> Item | None:
        """Return a notification with the payload that it refers to; None if that can't be read."""
        try:
            data = self._find_payload(item.channel, item.reference)
        except BaseException as exc:  # noqa: BLE001 - `db_conf` may raise anything
            why, error = f"can't be read from the log: {in_one_line(exc)}", type(exc).__name__
        else:
            if data is not None:
                return item.with_data(data)
            why, error = "isn't in the log any more", "LookupError"
        self._warn(
            "a payload of over 7,999 bytes for channel %r %s; a gap covers it",
            item.channel,
            why,
            extra=about(
                "payload_missing", channel=item.channel, entry=item.reference.id, error=error
            ),
        )
        self._miss(item, f"a payload of over 7,999 bytes {why}")
        return None


def report(binding: Binding, item: Item, exc: BaseException) -> None:
    """Report a payload that can't be decoded, and isn't delivered."""
    Delivery(binding, item.arrival(None)).report(exc)
