"""Measure competitors in turns in one run, and compare them by ratios."""

from collections.abc import Callable, Sequence
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def take_turns(names: Sequence[K], rounds: int, measure: Callable[[K], T]) -> dict[K, list[T]]:
    """Measure each competitor once a round, so that the load of the machine affects all.

    Returns:
        What was measured in each round, by competitor.
    """
    found: dict[K, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)  # so that the order differs between rounds
        for name in [*names[first:], *names[:first]]:
            found[name].append(measure(name))
    return found


def divide(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
