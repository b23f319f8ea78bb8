"""Rounds: competitors take turns in one run, and are told apart by ratios."""

import statistics
from collections.abc import Callable, Sequence

Rates = dict[str, list[float]]
"""By competitor, a rate for each round."""


def take_turns(names: Sequence[str], rounds: int, measure: Callable[[str], float]) -> Rates:
    """Measure each competitor once a round, so that all of them share what the machine does."""
    rates: Rates = {}
    for number in range(rounds):
        first = number % len(names)  # so that nobody always follows the same one
        for name in [*names[first:], *names[:first]]:
            rates.setdefault(name, []).append(measure(name))
    return rates


def print_ratio(rates: Rates, ours: str, theirs: str, floor: float | None = None) -> bool:
    """Print the median and the range of a ratio; return whether the median reaches the floor."""
    ratios = [mine / other for mine, other in zip(rates[ours], rates[theirs], strict=True)]
    middle = statistics.median(ratios)
    met = floor is None or middle >= floor
    told = "" if floor is None else f"; floor {floor:g}: {'met' if met else 'MISSED'}"
    shown = f"({min(ratios):.2f} to {max(ratios):.2f}{told})"
    print(f"{ours} / {theirs:<18} {middle:6.2f}   {shown}")
    return met


def print_rates(rates: Rates) -> None:
    """Print each competitor's median, minimum and maximum."""
    print(f"\n{'a second':<18} {'median':>9} {'min':>9} {'max':>9}")
    for name, values in rates.items():
        figures = (statistics.median(values), min(values), max(values))
        print(f"{name:<18} " + " ".join(f"{figure:>9,.0f}" for figure in figures))
