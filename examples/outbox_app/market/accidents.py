"""What goes wrong while an order is placed, and when."""

import os
import signal
from collections.abc import Callable


class CardRefusedError(Exception):
    """The customer's card is refused, so that the order is rolled back."""


def refuse() -> None:
    """Raise an exception in the transaction."""
    raise CardRefusedError


def die() -> None:
    """End this process at once, as the out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


IN_THE_SHOP: dict[str, tuple[str, Callable[[], None]]] = {
    "nothing": ("never", die),
    "the card is refused": ("before the commit", refuse),
    "kill -9 after the INSERT": ("after the insert", die),
    "kill -9 before the COMMIT": ("before the commit", die),
    "kill -9 after the COMMIT": ("after the commit", die),
}
"""What happens in the shop's process, and at which moment."""
AROUND_IT = {"relay": "kill -9 of the relay", "broker": "kill -9 of the broker"}
"""What happens to other processes, before the order is placed."""
EVERYTHING = (*IN_THE_SHOP, *AROUND_IT.values())


class Moments:
    """Has an accident happen at its moment."""

    def __init__(self, accident: str) -> None:
        self._moment, self._do = IN_THE_SHOP.get(accident, ("never", die))

    def reach(self, moment: str) -> None:
        """Go on, unless the accident happens at this moment."""
        if moment == self._moment:
            self._do()
