"""Misspelt names: the nearest name is suggested, or else all are listed."""

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
    """The nearest name is suggested, or all names in their order."""
    assert suggest(name, KNOWN, prefix=prefix) == expected


def test_nothing_is_near():
    """There is no nearest name if none is similar, or if there are no names."""
    assert find_nearest("colour", KNOWN) is None
    assert find_nearest("queue", ()) is None
    assert find_nearest("queue", KNOWN) == "queue"


def test_there_is_one_of_each():
    """Only one module looks for similar names, and only one aligns columns."""
    found = {
        (match[0], path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob("*.py")
        for match in re.finditer(r"get_close_matches|\.ljust\(", path.read_text())
    }
    assert {place for place in found if not place[1].startswith("demo/")} == {
        ("get_close_matches", "_runtime/suggestions.py"),
        (".ljust(", "cli/tables.py"),
    }
