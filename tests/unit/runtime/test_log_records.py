"""Fields of log records: what they contain, and that the documentation lists all of them."""

import logging
import re
from pathlib import Path

import pytest

import pgnotifier
from pgnotifier._runtime.log_records import about, count, duration, percent

ROOT = Path(pgnotifier.__file__).parent
LOGGING = sorted({*ROOT.rglob("*.py")} - {*ROOT.glob("demo/*.py"), *ROOT.glob("testing/*.py")})
DOCS = Path(__file__).parents[3] / "docs" / "logging.md"
STATES = {
    "starting",
    "listening",
    "standby",
    "stopped",
    "stamped",
    "unstamped",
    "muted",
    "unmuted",
}  # the current state is the event's name


def test_about():
    """A field that is None is left out."""
    assert about("gap", why="x", since=None) == {"pgnotifier_event": "gap", "why": "x"}


@pytest.mark.parametrize(("number", "found"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks")])
def test_count(number, found):
    """`count` uses the singular for one only."""
    assert count(number, "task") == found


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        (-1, "under 0.1 s"),  # impossible, unless a clock is set
        (0, "under 0.1 s"),
        (0.35, "0.3 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (61.2, "61 s"),
        (119.6, "2 min"),
        (7140, "119 min"),
        (7170, "2 h"),
        (1_000_000, "278 h"),
    ],
)
def test_duration(seconds, found):
    """A duration is written in a suitable unit, with few digits and without an exponent."""
    assert duration(seconds) == found


@pytest.mark.parametrize(
    ("fraction", "found"),
    [(0, "under 0.1 %"), (1e-5, "under 0.1 %"), (0.012, "1.2 %"), (0.0999, "10 %"), (1, "100 %")],
)
def test_percent(fraction, found):
    """A percentage is written without an exponent."""
    assert percent(fraction) == found


def test_every_record_is_listed():
    """The documentation lists each event with its fields, and no others."""
    rows = re.findall(r"^\| (`.*?) \| .* \|(.*)\|$", DOCS.read_text(), re.MULTILINE)
    listed = {name: fields for names, fields in rows for name in re.findall(r"`(\w+)`", names)}
    listed.pop("pgnotifier_event")
    found = STATES.copy()
    for path in LOGGING:
        for event, fields in re.findall(
            r'\babout\(\s*"(\w+)"(.*?)\)\n', path.read_text(), re.DOTALL
        ):
            found.add(event)
            for field in re.findall(r"\b(\w+)=", fields):
                assert f"`{field}`" in listed[event], (event, field)
                assert field not in vars(logging.makeLogRecord({})), field
    assert found == set(listed)


def test_every_call_has_fields():
    """Each logging call passes fields."""
    calls = re.compile(
        r"(?:logger\.(?:log|debug|info|warning|error|exception)|self\._warn\w*)\(\n?"
    )
    for path in LOGGING:
        text = path.read_text()
        for call in calls.finditer(text):
            depth, end = 1, call.end()
            while depth:
                depth += {"(": 1, ")": -1}.get(text[end], 0)
                end += 1
            assert "extra=" in text[call.start() : end], (path.name, text[call.start() : end])
