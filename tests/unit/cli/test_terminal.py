"""What `pgnotifier tail` shows in a terminal."""

from datetime import UTC, datetime

import pytest
from pyte import Screen as Terminal
from pyte import Stream

from pgnotifier.cli.tail.inbox import Loss
from pgnotifier.cli.tail.terminal import Pulse, Screen
from pgnotifier.notification import Notification
from pgnotifier.payload import decode

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def show(text, width=80, *, raw=False, channel="orders"):
    """Return the lines of a notification without styles."""
    screen = Screen(["orders", "invoices"], lambda _, shown: shown, raw=raw)
    return screen.show(Notification(channel, decode(text), text, 4711, AT), width).splitlines()


def test_columns():
    """Channels and pids are aligned, and a short payload is on the same line."""
    (line,) = show('{"id": 7}')
    assert line[12:] == "  orders       4711  {'id': 7}"
    (longer,) = show("1", channel="invoices")
    assert longer.index("1", 32) == line.index("{")


def test_a_wide_payload_has_several_lines():
    """Objects and lists that are too wide are split, below each other."""
    lines = show('{"id": 7, "lines": [1, 2], "notes": "%s"}' % ("x" * 40), width=70)
    at = lines[0].index("{")
    assert [line[at:] for line in lines[:3]] == ["{", "  'id': 7,", "  'lines': [1, 2],"]
    assert [line[:at].strip() for line in lines[1:]] == [""] * (len(lines) - 1)
    assert lines[-1].strip() == "}"


def test_a_narrow_terminal():
    """The payload has a line of its own."""
    assert show("[1, 2]", width=30)[1] == "  [1, 2]"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J\x1b[H",
        '{"\x9b": "\u202e\\u001b[2J"}',
        "[" * 10_000,
        "[" * 200 + "]" * 200,
        "[" + "1," * 3900 + "1]",
        "\ud800\r\n",
    ],
)
def test_nothing_harms_the_terminal(text, raw):
    """Whatever a payload contains, its lines are printable, and not too many."""
    lines = show(text, raw=raw)
    assert all(line.isprintable() for line in lines)
    assert len(lines) < 50


def test_gaps():
    """A gap is one line that says how many notifications are missing."""
    screen = Screen(["orders"], lambda _, shown: shown, raw=False)
    loss = Loss(AT, AT, "the output is too slow", ("orders",), 1234, was_cut=False)
    assert "1,234 notifications dropped" in screen.show(loss, 80)


def test_styles_are_by_type():
    """Each kind of value has its style."""
    screen = Screen(["orders"], lambda style, shown: f"<{style}>{shown}", raw=False)
    text = '{"a": [1, "b", null]}'
    line = screen.show(Notification("orders", decode(text), text, 1, AT), 80)
    for part in ("<name>'a'", "<number>1", "<text>'b'", "<constant>None", "<channel>orders"):
        assert part in line


def test_figures():
    """The last line and the summary count what there was."""
    pulse = Pulse()
    pulse.add(1234)
    pulse.note_gap(5)
    assert "orders  1,234 received" in pulse.show("orders")
    assert "1 gap (5 dropped)" in pulse.show("orders")
    assert pulse.summarize("notifications").startswith("1,234 notifications in ")


def test_the_lines_fit_a_terminal():
    """A real terminal shows them where they belong."""
    terminal = Terminal(60, 10)
    Stream(terminal).feed("\r\n".join(show('{"id": 7, "text": "%s"}' % ("y" * 30), width=60)))
    assert terminal.display[1].strip() == "'id': 7,"
