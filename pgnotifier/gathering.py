"""How a subscription gathers: many notifications become one delivery.

A *batch* holds back until it is full or old enough, and hands on a list. A *debounce* holds back
until there is quiet, and hands on the latest.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from pgnotifier._runtime.seconds import DAY, Seconds, is_number
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

PATIENCE = 10
"""A debounce waits at most this many times its seconds for quiet, by default."""
_SECONDS = Seconds(DAY)


@dataclass(frozen=True, slots=True)
class Batch:
    """Gather up to `size` notifications, or for `seconds` after the first of them."""

    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Debounce:
    """Wait until `quiet` seconds have passed without another one, but `patience` at most.

    Attributes:
        key: Tells by the payload which notifications are one storm. Default: their text.
    """

    quiet: float
    patience: float
    key: Callable[[Any], Hashable] | None = None


Gathering = Batch | Debounce


def check_gathering(id: Hashable, batch: Any, debounce: Any, key: Any) -> Gathering | None:
    """Return how a subscription gathers; None if it doesn't.

    Args:
        id: The subscription's, for errors.
        batch: A pair of a size and seconds.
        debounce: Seconds of quiet, or a pair of these and the most to wait.
        key: Of a debounce.

    Raises:
        ArgumentTypeError: One of them is of another type.
        ConfigurationError: A value can't be, or they don't go together.
    """
    what = f"subscription {id!r:.80}"
    if batch is not None and debounce is not None:
        raise ConfigurationError(f"{what}: give batch or debounce, not both")
    if key is not None and debounce is None:
        raise ConfigurationError(f"{what}: key goes with debounce, which is missing")
    if key is not None and not callable(key):
        raise ArgumentTypeError(f"{what}: key must be callable, which {key!r:.80} is not")
    if batch is not None:
        return _check_batch(what, batch)
    if debounce is not None:
        return _check_debounce(what, debounce, key)
    return None


def _check_batch(what: str, given: Any) -> Batch:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ArgumentTypeError(f"{what}: batch is a pair (max_size, max_seconds), not {given!r}")
    size, seconds = given
    if not isinstance(size, int) or isinstance(size, bool):
        raise ArgumentTypeError(f"{what}: the size of a batch is an int, not {size!r}")
    if size < 1:
        raise ConfigurationError(f"{what}: the size of a batch must be at least 1, not {size!r}")
    return Batch(size, _check_seconds(what, "batch", seconds))


def _check_debounce(what: str, given: Any, key: Callable[[Any], Hashable] | None) -> Debounce:
    pair = given if isinstance(given, tuple | list) else (given, None)
    if len(pair) != 2:
        raise ArgumentTypeError(
            f"{what}: debounce is seconds, or a pair (seconds, max_seconds), not {given!r}"
        )
    quiet = _check_seconds(what, "debounce", pair[0])
    if pair[1] is None:
        return Debounce(quiet, quiet * PATIENCE, key)
    patience = _check_seconds(what, "debounce", pair[1])
    if patience < quiet:
        raise ConfigurationError(f"{what}: debounce={given!r} would wait less than its seconds")
    return Debounce(quiet, patience, key)


def _check_seconds(what: str, name: str, value: Any) -> float:
    if (expected := _SECONDS.find_problem(value)) is not None:
        raise (ConfigurationError if is_number(value) else ArgumentTypeError)(
            f"{what}: the time of a {name} must be {expected}, not {value!r:.80}"
        )
    return float(value)
