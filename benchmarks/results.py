"""The values of results, and the limits that they are checked against."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rounds import divide


@dataclass(frozen=True, slots=True)
class Limit:
    """The lowest or highest median that is allowed.

    Attributes:
        bound: The number.
        at_most: Whether it is the highest number allowed, instead of the lowest.
        target: The target, if the bound is less strict to allow for noise.
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
        name: Its name in the table.
        figures: What was measured in each round.
        ratios: The ratio in each round, if any.
        limit: The limit for the median of the ratios, or of the figures if there are no ratios.
        at: Its position on the curve.
    """

    name: str
    figures: Sequence[float]
    ratios: Sequence[float] = ()
    limit: Limit | None = None
    at: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the limit is kept, or there is none."""
        return self.limit is None or self.limit.is_met(
            statistics.median(self.ratios or self.figures)
        )


@dataclass(frozen=True, slots=True)
class Section:
    """One comparison, or one curve.

    Attributes:
        title: What was measured.
        unit: The unit of the figures.
        ratio: The meaning of the ratios.
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
    """Return a section with the ratios of pgnotifier's figures to each competitor's."""
    rows = [Row(ours, figures[ours])]
    for name, values in figures.items():
        if name != ours:
            rows.append(Row(name, values, divide(figures[ours], values), limits.get(name)))
    return Section(title, unit, f"{ours} / each", rows)
