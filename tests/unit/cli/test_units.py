"""Durations and sizes are read and written with their units."""

from datetime import timedelta

import click
import pytest

from pgnotifier.cli.units import format_size, read_duration, read_size


def option(read, text):
    """Return the value of an option."""
    command = click.Command("x")
    return read(click.Context(command), click.Option(["--x"]), text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30min", 1800), ("12h", 43200), ("7d", 604800), ("1.5 h", 5400), ("0", 0)],
)
def test_durations(text, seconds):
    """A duration has a unit, unless it is 0."""
    assert option(read_duration, text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("10kB", 10240), ("5mb", 5 * 1024**2), ("20 GB", 20 * 1024**3), ("0", 0)],
)
def test_sizes(text, size):
    """A size has a unit, a power of 1024, unless it is 0."""
    assert option(read_size, text) == size


@pytest.mark.parametrize("text", ["", "7", "d", "7x", "-1d", "1e9d", "٣d", "999999999999d"])
@pytest.mark.parametrize("read", [read_duration, read_size])
def test_what_is_neither(read, text):
    """Anything else is refused."""
    with pytest.raises(click.BadParameter, match="such as"):
        option(read, text)


def test_nothing():
    """An option that isn't given has no value."""
    assert option(read_duration, None) is option(read_size, None) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (64 * 1024**2, "64 MB"), (1e18, "909495 TB")],
)
def test_writing_sizes(size, text):
    """A size is written with two digits or more."""
    assert format_size(size) == text
