"""Holding back: while a command imports modules, no notifier starts by itself."""

from collections.abc import Iterator
from contextlib import contextmanager

_holders: list[object] = []


@contextmanager
def hold_starts() -> Iterator[None]:
    """Have notifiers of this process wait for their `start()`, until the end of the block."""
    holder = object()
    _holders.append(holder)
    try:
        yield
    finally:
        _holders.remove(holder)


def are_starts_held() -> bool:
    """Return whether no notifier is to start by itself."""
    return bool(_holders)
