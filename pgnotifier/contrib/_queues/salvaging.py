"""Salvaging: a batch without the payloads that a queue can't carry."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from pgnotifier.dispatch import Delivery

if TYPE_CHECKING:
    from pgnotifier.notification import Notification


def salvage(delivery: Delivery, check: Callable[[Delivery], Any]) -> Delivery | None:
    """Return what is left of a batch without the parts that can't be carried.

    Those are reported, each by itself.

    Args:
        delivery: One that turned out not to be carried.
        check: Raises if that is so of the delivery that it gets, a batch of one; it sends nothing.

    Returns:
        The delivery of the others; None if there are none, or if each could be carried. Then
        nothing was reported.
    """
    fit: list[Notification] = []
    unfit: list[tuple[Notification, Exception]] = []
    for part in delivery.notification.parts:
        alone = msgspec.structs.replace(part, payload=[part.payload], parts=(part,))
        try:
            check(Delivery(delivery.binding, alone))
        except Exception as exc:  # noqa: BLE001 - whatever a serializer raises
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
