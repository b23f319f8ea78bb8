"""Remove the payloads that a queue can't serialize from a gathered delivery."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from pgnotifier.dispatch import Delivery

if TYPE_CHECKING:
    from pgnotifier.notification import Notification


def salvage(delivery: Delivery, check: Callable[[Delivery], Any]) -> Delivery | None:
    """Return a gathered delivery without the payloads that can't be serialized.

    Each of these is reported by itself.

    Args:
        delivery: A delivery that couldn't be serialized.
        check: Takes a delivery of one payload, and raises if it can't be serialized. It sends
            nothing.

    Returns:
        A delivery of the remaining payloads; or None, with nothing reported, if either all of the
        payloads or none of them can be serialized by themselves.
    """
    fit: list[Notification] = []
    unfit: list[tuple[Notification, Exception]] = []
    for part in delivery.notification.parts:
        alone = msgspec.structs.replace(part, payload=[part.payload], parts=(part,))
        try:
            check(Delivery(delivery.binding, alone))
        except Exception as exc:  # noqa: BLE001 - a serializer may raise anything
            unfit.append((part, exc))
        else:
            fit.append(part)
    if not fit or not unfit:
        return None
    for part, reason in unfit:
        Delivery(delivery.binding, part).report(reason)
    whole = msgspec.structs.replace(
        fit[-1], payload=[part.payload for part in fit], count=len(fit), parts=tuple(fit)
    )
    return Delivery(delivery.binding, whole)
