"""Results: what was found, and what must be found."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rounds import divide


@dataclass(frozen=True, slots=True)
class Limit:
    """What a median has to reach, or to stay below.

    Attributes:
        bound: The number.
        at_most: Whether it is the highest one allowed, instead of the lowest.
        target: What we are after, where the bound makes room for noise.
    """

    bound: float
    at_most: bool = False
    target: float | None = None

    def is_met(self, value: float) -> bool:
        """Return whether a median is within the limit."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        shown = f"{'<=' if self.at_most else '>='} {self.bound:.3g}"
        return shown if self.target is None else f"{shown}, target {self.target:.1f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One competitor, or one point of a curve.

    Attributes:
        name: What it is called in the table.
        figures: What was measured in each round.
        ratios: The same as a ratio, for each round. What a limit is for, if there are any.
        limit: Of the ratio's median, or without ratios of the figure's.
        at: Where on the curve it is.
    """

    name: str
    figures: Sequence[float]
    ratios: Sequence[float] = ()
    limit: Limit | None = None
    at: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether it keeps its limit, if it has one."""
        return self.limit is None or self.limit.is_met(
            statistics.median(self.ratios or self.figures)
        )


@dataclass(frozen=True, slots=True)
class Section:
    """What belongs together: one comparison, or one curve.

    Attributes:
        title: What was done.
        unit: What the figures are.
        ratio: What the ratios are.
        rows: The results.
    """

    title: str
    unit: str
    ratio: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def is_curve(self) -> bool:
        """Whether its rows are the points of a curve."""
        return all(row.at is not None for row in self.rows)


def compare(
    title: str,
    unit: str,
    figures: Mapping[str, Sequence[float]],
    ours: str,
    limits: Mapping[str, Limit],
) -> Section:
    """Return a section that divides our figures by each competitor's."""
    rows = [Row(ours, figures[ours])]
    for name, values in figures.items():
        if name != ours:
            rows.append(Row(name, values, divide(figures[ours], values), limits.get(name)))
    return Section(title, unit, f"{ours} / each", rows)
