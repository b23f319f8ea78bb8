"""What log records carry, and that the docs list all of it."""

import logging
import re
from pathlib import Path

import pytest

import pgnotifier
from pgnotifier.records import about, count

ROOT = Path(pgnotifier.__file__).parent
LOGGING = sorted({*ROOT.glob("*.py"), *ROOT.glob("contrib/**/*.py")})
DOCS = Path(__file__).parents[2] / "docs" / "logging.md"
STATES = {
    "starting",
    "hearing",
    "standby",
    "stopped",
    "stamped",
    "unstamped",
}  # that of the moment is the event's name


def test_about():
    """What isn't known is left out."""
    assert about("gap", why="x", since=None) == {"pgnotifier_event": "gap", "why": "x"}


@pytest.mark.parametrize(("number", "found"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks")])
def test_count(number, found):
    """One is no plural."""
    assert count(number, "task") == found


def test_every_record_is_listed():
    """With its fields; and none is listed that there isn't."""
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
    """No module logs without."""
    calls = re.compile(r"(?:logger\.(?:log|debug|info|warning|error|exception)|self\._warn)\(\n?")
    for path in LOGGING:
        text = path.read_text()
        for call in calls.finditer(text):
            depth, end = 1, call.end()
            while depth:
                depth += {"(": 1, ")": -1}.get(text[end], 0)
                end += 1
            assert "extra=" in text[call.start() : end], (path.name, text[call.start() : end])
