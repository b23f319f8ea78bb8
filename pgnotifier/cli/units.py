"""Durations and sizes with their units, as options of commands."""

import re
from datetime import timedelta

import click

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}
_SIZES = ("B", "kB", "MB", "GB", "TB")


def read_duration(_: click.Context, __: click.Parameter, text: str | None) -> timedelta | None:
    """Return the value of an option: a duration such as 90s, 30min, 12h or 7d; 0 needs no unit."""
    if text is None:
        return None
    seconds = _read(text, _SECONDS)
    try:
        if seconds is not None:
            return timedelta(seconds=seconds)
    except OverflowError:
        pass
    raise click.BadParameter(f"{text!r} isn't a duration such as 90s, 30min, 12h or 7d")


def read_size(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Return the value of an option: a size such as 500MB or 20GB; 0 needs no unit.

    Units are powers of 1024, as in PostgreSQL.
    """
    if text is None:
        return None
    size = _read(text, _BYTES)
    if size is None:
        raise click.BadParameter(f"{text!r} isn't a size such as 500MB or 20GB")
    return int(size)


def format_size(size: float) -> str:
    """Return a number of bytes in words: `0 B`, `1.5 MB`."""
    power = 0
    while size >= 1024 and power < len(_SIZES) - 1:
        size /= 1024
        power += 1
    unit = _SIZES[power]
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"


def _read(text: str, units: dict[str, int]) -> float | None:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)", text.strip().lower(), re.ASCII)
    if found is None:
        return None
    number, unit = float(found[1]), found[2]
    if unit not in units:
        return 0.0 if not unit and not number else None
    return number * units[unit]
