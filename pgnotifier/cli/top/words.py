"""Numbers and durations in few characters, and sparklines."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

HEIGHTS = " ▁▂▃▄▅▆▇█"
"""The heights of a sparkline: the first one is for nothing at all."""


def show_rate(rate: float | None) -> str:
    """Return a rate: `0/s`, `0.2/s`, `12.5/s`, `1,250/s`, `1.2M/s`."""
    return "" if rate is None else f"{show_number(rate)}/s"


def show_number(number: float) -> str:
    """Return a number of at most seven characters: `0`, `0.2`, `1,250`, `12.5M`."""
    if number == 0:
        return "0"
    if number < 99.95 and number != int(number):
        return f"{number:.1f}" if number >= 0.05 else "<0.1"
    if number < 999_999.5:
        return f"{number:,.0f}"
    for unit, size in (("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if number < size * 999.95:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0e}"


def show_delay(seconds: float | None) -> str:
    """Return a short time: `0.4ms`, `12ms`, `1.5s`, `3m`."""
    if seconds is None:
        return ""
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 59.95 else show_age(seconds)


def show_age(seconds: float) -> str:
    """Return a long time in at most two units: `5s`, `3m20s`, `4h07m`, `12d`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d"


def age_of(since: datetime | None) -> str:
    """Return how long ago something was."""
    return "" if since is None else show_age((datetime.now(UTC) - since).total_seconds())


def show_moment(at: datetime) -> str:
    """Return a time, in the zone of this machine."""
    try:
        return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError):  # in a forged answer
        return at.isoformat()


def draw_sparkline(values: Sequence[float], width: int) -> str:
    """Return the latest values as blocks; the highest value has full height."""
    shown = [*values][-width:]
    highest = max(shown, default=0.0)
    if not 0 < highest < math.inf:  # nothing, or a forged answer
        return ("▁" * len(shown)).rjust(width)
    steps = len(HEIGHTS) - 1
    blocks = (HEIGHTS[max(1, math.ceil(one / highest * steps))] for one in shown)
    return "".join(blocks).rjust(width)
