"""Misspelt names: the nearest one is suggested, or else all are listed."""

import re
from pathlib import Path

import pytest

import pgnotifier
from pgnotifier._runtime.suggestions import find_nearest, suggest

KNOWN = ("queue", "ttl", "timeout")
PACKAGE = Path(pgnotifier.__file__).parent


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    [
        ("qeue", "", "did you mean 'queue'?"),
        ("time_out", "", "did you mean 'timeout'?"),
        ("colour", "", "there are queue, ttl, timeout"),
        (5, "", "there are queue, ttl, timeout"),
        ("qeue", "rq_", "did you mean 'rq_queue'?"),
        ("zzz", "rq_", "there are rq_queue, rq_ttl, rq_timeout"),
    ],
)
def test_suggest(name, prefix, expected):
    """The nearest name, or all names in their order."""
    assert suggest(name, KNOWN, prefix=prefix) == expected


def test_nothing_is_near():
    """A name that is like none of them, or no names at all, suggest nothing."""
    assert find_nearest("colour", KNOWN) is None
    assert find_nearest("queue", ()) is None
    assert find_nearest("queue", KNOWN) == "queue"


def test_there_is_one_of_each():
    """No other module looks for near names, or aligns the columns of a table."""
    found = {
        (match[0], path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob("*.py")
        for match in re.finditer(r"get_close_matches|\.ljust\(", path.read_text())
    }
    assert {place for place in found if not place[1].startswith("demo/")} == {
        ("get_close_matches", "_runtime/suggestions.py"),
        (".ljust(", "cli/tables.py"),
    }
