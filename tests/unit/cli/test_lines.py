"""The lines of `pgnotifier tail`."""

import json
from datetime import UTC, datetime

import pytest

from pgnotifier.cli.printable import printable
from pgnotifier.cli.tail.inbox import Cut, Loss
from pgnotifier.cli.tail.lines import make_json, make_line
from pgnotifier.notification import Entry, Notification
from pgnotifier.payload import decode

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def arrived(text, channel="orders"):
    """Return a notification with this text."""
    return Notification(channel, decode(text), text, 4711, AT)


HOSTILE = (
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "a\rb\nc",
    "\u202edrow\u2066",
    "\ud800",
    json.dumps("\x1b[31m"),
    '{"\x7f": "\u2028"}',
    "[" * 10_000,
    "[" * 10_000 + "]" * 10_000,
    "x" * 8000,
    "",
)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("make", [make_line, make_json])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_reaches_a_terminal(text, make, raw):
    """A line has one newline, at its end, and nothing else that isn't printable."""
    for event in (
        arrived(text),
        arrived("1", channel=text[:20] or "x"),
        Cut(AT, text),
        Loss(AT, AT, text, (text,)),
    ):
        line = make(event, raw=raw)
        assert line.endswith("\n")
        assert line[:-1].isprintable()
        if make is make_json:
            json.loads(line)


def test_lines_of_text():
    """A line shows the value that a callback gets, or the text with --raw."""
    line = make_line(arrived('{"total": 9.50}'), raw=False)
    assert line.endswith("  orders  4711  {'total': 9.5}\n")
    assert make_line(arrived('{"total": 9.50}'), raw=True).endswith('  {"total": 9.50}\n')
    entry = Entry("orders", 1, "1", 0, AT, id=7, key="k", published_at=AT)
    assert make_line(entry, raw=False).endswith("  orders  #7  k  1\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1", {"payload": 1}),
        ('"1"', {"payload": "1"}),
        ("one", {"payload": "one", "raw": "one"}),
        ("", {"payload": "", "raw": ""}),
        ("{'a': None}", {"payload": {"a": None}, "raw": "{'a': None}"}),
        ("(1, 2)", {"raw": "(1, 2)"}),
        ("[1e999, {1}]", {"raw": "[1e999, {1}]"}),
        ('"\\ud800"', {"payload": "\ud800"}),
        ('{"é😀": []}', {"payload": {"é😀": []}}),
    ],
)
def test_lines_of_json(text, shown):
    """The payload is there if it is one of JSON's values; the text, if it isn't JSON."""
    found = json.loads(make_json(arrived(text), raw=False))
    assert {name: found[name] for name in ("payload", "raw") if name in found} == shown
    assert (found["channel"], found["pid"]) == ("orders", 4711)
    assert datetime.fromisoformat(found["received_at"]) == AT
    only = json.loads(make_json(arrived(text), raw=True))
    assert ("payload" in only, only["raw"]) == (False, text)


def test_numbers_are_exact():
    """A number keeps its digits, also where a float would not."""
    assert '"payload":[12345678901234567.89]' in make_json(
        arrived("[12345678901234567.89]"), raw=False
    )


def test_entries_and_gaps_in_json():
    """An entry has its number, key and time; gaps are objects, too."""
    entry = Entry("orders", 1, "1", 0, AT, id=7, key=None, published_at=AT)
    found = json.loads(make_json(entry, raw=False))
    assert (found["id"], found["key"], found["published_at"]) == (7, None, AT.isoformat())
    loss = Loss(AT, AT, "no", ("orders",), 3, was_cut=False)
    assert json.loads(make_json(loss, raw=False))["gap"]["missed"] == 3
    assert json.loads(make_json(Cut(AT, "no"), raw=False))["disconnected"]["why"] == "no"


def test_printable():
    """Escapes stand for what can't be printed, and other characters stay."""
    assert printable("é 😀\t\x1b\u202e\ud800") == r"é 😀\t\x1b\u202e\ud800"
