"""Check the options `batch=`, `debounce=` and `key=`: many notifications become one delivery.

A *batch* waits until it is full or old enough, and delivers a list of payloads. A *debounce* waits
until no more notifications come, and delivers the latest.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from pgnotifier.errors import ArgumentTypeError, ConfigurationError
from pgnotifier.settings import DAY, seconds, whole_number

PATIENCE = 10
"""A debounce waits at most this many times its seconds for quiet, by default."""
_SIZE = whole_number(1)
_SECONDS = seconds(most=DAY)


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliver `size` notifications at once, or fewer `seconds` after the first of them."""

    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Debounce:
    """Wait for `quiet` seconds without another notification, but at most `patience` seconds.

    Attributes:
        key: Returns the same value for payloads of notifications to debounce together. Default:
            those with the same text.
    """

    quiet: float
    patience: float
    key: Callable[[Any], Hashable] | None = None


Gathering = Batch | Debounce


def check_gathering(id: Hashable, batch: Any, debounce: Any, key: Any) -> Gathering | None:
    """Return the batch or debounce of a subscription, or None if it has neither.

    Args:
        id: The subscription's id, for errors.
        batch: A pair of a size and seconds.
        debounce: Seconds without a notification, or a pair of these and the maximum to wait.
        key: The key function of a debounce.

    Raises:
        ArgumentTypeError: An option has the wrong type.
        ConfigurationError: A value is out of range, or the options don't go together.
    """
    what = f"subscription {id!r:.80}"
    if batch is not None and debounce is not None:
        raise ConfigurationError(f"{what}: give batch or debounce, not both")
    if key is not None and debounce is None:
        raise ConfigurationError(f"{what}: key needs debounce; give both or neither")
    if key is not None and not callable(key):
        raise ArgumentTypeError(f"{what}: key must be callable, not {key!r:.80}")
    if batch is not None:
        return _check_batch(what, batch)
    if debounce is not None:
        return _check_debounce(what, debounce, key)
    return None


def _check_batch(what: str, given: Any) -> Batch:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ArgumentTypeError(
            f"{what}: batch must be a pair (max_size, max_seconds), not {given!r}"
        )
    size, longest = given
    _SIZE.check(f"{what}: the size of a batch", size)
    return Batch(size, _check_seconds(what, "batch", longest))


def _check_debounce(what: str, given: Any, key: Callable[[Any], Hashable] | None) -> Debounce:
    pair = given if isinstance(given, tuple | list) else (given, None)
    if len(pair) != 2:
        raise ArgumentTypeError(
            f"{what}: debounce must be a number of seconds, or a pair (seconds, max_seconds), "
            f"not {given!r}"
        )
    quiet = _check_seconds(what, "debounce", pair[0])
    if pair[1] is None:
        return Debounce(quiet, quiet * PATIENCE, key)
    patience = _check_seconds(what, "debounce", pair[1])
    if patience < quiet:
        raise ConfigurationError(
            f"{what}: the max_seconds of debounce must be at least its seconds, not {given!r}"
        )
    return Debounce(quiet, patience, key)


def _check_seconds(what: str, name: str, value: Any) -> float:
    _SECONDS.check(f"{what}: the time of a {name}", value)
    return float(value)
