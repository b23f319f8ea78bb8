"""Draw the results as one SVG: columns for comparisons, and lines for curves."""

import math
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from report import show
from results import Section

WIDTH, COLUMNS = 460, 2
ROW, HEAD, NAMES = 18, 44, 170
LINE_HEIGHT = 170
COLOUR, OTHER, INK = "#2f6db3", "#b9c4d0", "#222"


def draw(sections: Sequence[Section], path: Path) -> None:
    """Write the plot of all sections, two side by side."""
    parts: list[str] = []
    tops = [0.0] * COLUMNS
    for section in sections:
        column = tops.index(min(tops))
        drawn, height = _curve(section) if section.is_curve else _rows(section)
        title = _text(0, 16, section.title, 'font-weight="bold"') + _text(0, 32, section.unit)
        place = f'<g transform="translate({20 + column * (WIDTH + 40)} {tops[column] + 10:.0f})">'
        parts.append(f"{place}{title}{drawn}</g>")
        tops[column] += HEAD + height + 24
    wide, high = COLUMNS * (WIDTH + 40), max(tops) + 10
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high:.0f}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
        f'<rect width="{wide}" height="{high:.0f}" fill="white"/>' + "\n".join(parts) + "</svg>\n"
    )


def _rows(section: Section) -> tuple[str, float]:
    """Return a rectangle for each row, and the height of all."""
    values = [statistics.median(row.figures) for row in section.rows]
    longest = max(*values, 1e-9)
    parts = []
    for number, (row, value) in enumerate(zip(section.rows, values, strict=True)):
        top = HEAD + number * ROW
        length = max(1.0, value / longest * (WIDTH - NAMES - 110))
        ours = row.name.startswith("pgnotifier") and not row.ratios
        shown = show(value)
        if row.ratios:
            shown += f"  (ratio {statistics.median(row.ratios):.2f})"
        parts.append(
            _text(NAMES - 8, top + 12, row.name, 'text-anchor="end"')
            + f'<rect x="{NAMES}" y="{top}" width="{length:.1f}" height="{ROW - 4}" '
            f'fill="{COLOUR if ours else OTHER}"/>' + _text(NAMES + length + 6, top + 12, shown)
        )
    return "".join(parts), len(values) * ROW


def _curve(section: Section) -> tuple[str, float]:
    """Return a line through the medians with their ranges, on logarithmic axes."""
    rows = [row for row in section.rows if row.at is not None]
    across = _Scale([row.at for row in rows if row.at is not None], 40, WIDTH - 60)
    upwards = _Scale([v for row in rows for v in row.figures], HEAD + LINE_HEIGHT - 30, HEAD + 16)
    parts, corners = [], []
    for row in rows:
        assert row.at is not None
        middle = statistics.median(row.figures)
        x, y = across(row.at), upwards(middle)
        low, high = upwards(min(row.figures)), upwards(max(row.figures))
        corners.append(f"{x:.1f},{y:.1f}")
        parts.append(
            f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{OTHER}" stroke-width="4"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLOUR}"/>'
            + _text(x, min(y, high) - 7, show(middle), 'text-anchor="middle"')
            + _text(x, HEAD + LINE_HEIGHT - 8, f"{row.at:,.0f}", 'text-anchor="middle"')
        )
    line = f'<polyline points="{" ".join(corners)}" fill="none" stroke="{COLOUR}"/>'
    return line + "".join(parts), LINE_HEIGHT


class _Scale:
    """Maps values to positions, by their logarithms."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        logs = [math.log(max(value, 1e-9)) for value in values]
        # At least a factor of four, so that noise doesn't fill the picture.
        middle, spread = (min(logs) + max(logs)) / 2, max(max(logs) - min(logs), math.log(4))
        self._low, self._spread = middle - spread / 2, spread
        self._first, self._length = first, last - first

    def __call__(self, value: float) -> float:
        share = (math.log(max(value, 1e-9)) - self._low) / self._spread
        return self._first + share * self._length


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
