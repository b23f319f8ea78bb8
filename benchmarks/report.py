"""Print the results as a table, and write them as JSON."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from results import Row, Section

PACKAGES = (
    "psycopg",
    "psycopg2-binary",
    "asyncpg",
    "celery",
    "kombu",
    "rq",
    "django",
    "redis",
    "amqp",
    "procrastinate",
    "pgqueuer",
    "django-pgpubsub",
)


def print_table(sections: Sequence[Section], *, judged: bool) -> bool:
    """Print ratios and figures, each as the median of its rounds with their range.

    Args:
        sections: The results.
        judged: Whether to show which limits are kept.

    Returns:
        Whether all limits are kept.
    """
    print(f"{'':<27} {'ratio':>7} {'range':>16}   {'median':>9} {'range':>19}")
    for section in sections:
        head = f"{section.title}, {section.unit}"
        print(f"\n{head}" + (f"; ratio: {section.ratio}" if section.ratio else ""))
        for row in section.rows:
            print(_format_row(row, judged=judged).rstrip())
    rows = [row for section in sections for row in section.rows if row.limit]
    kept = sum(row.is_met for row in rows)
    print(
        f"\n{kept} of {len(rows)} limits kept" if judged else "\nA quick run says nothing of speed"
    )
    return kept == len(rows)


def _format_row(row: Row, *, judged: bool) -> str:
    ratio = f"{'':>7} {'':>16}"
    if row.ratios:
        span = f"{show(min(row.ratios))} to {show(max(row.ratios))}"
        ratio = f"{show(statistics.median(row.ratios)):>7} {span:>16}"
    span = f"{show(min(row.figures))} to {show(max(row.figures))}"
    figures = f"{show(statistics.median(row.figures)):>9} {span:>19}"
    verdict = f"{row.limit}: {'kept' if row.is_met else 'MISSED'}" if row.limit and judged else ""
    return f"  {row.name:<25} {ratio}   {figures}   {verdict}"


def show(value: float) -> str:
    """Return a number with at least three digits, in at most eight characters."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def write_json(sections: Sequence[Section], path: Path) -> None:
    """Write the figures of every round, with the machine and the versions."""
    found = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
        "sections": [asdict(section) for section in sections],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")
