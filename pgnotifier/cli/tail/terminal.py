"""What `pgnotifier tail` shows in a terminal: colours by type, aligned columns, a last line."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from time import monotonic
from typing import Any

from pgnotifier._runtime.log_records import duration
from pgnotifier.cli.printable import printable
from pgnotifier.cli.tail.inbox import Event
from pgnotifier.cli.tail.lines import describe, show_payload
from pgnotifier.notification import Notification

STYLES: Mapping[str, str] = {
    "time": "dim",
    "channel": "bold cyan",
    "pid": "dim",
    "text": "green",
    "number": "blue",
    "constant": "magenta",
    "name": "yellow",
    "gap": "bold red",
    "status": "reverse",
    "plain": "",
}
LONGEST = 20_000
"""Characters of a payload that are shown at most."""
MOST_LINES = 40
"""Lines of a payload that are shown at most."""
WIDEST = 30
"""Columns of a channel's name, at most. Longer ones push the rest aside."""
WINDOW = 5.0
"""Seconds over which the rate is averaged."""

Paint = Callable[[str, str], str]
"""Returns a text in a style of `STYLES`."""
Token = tuple[str, str]
"""A style and a text."""


def find_paint() -> Paint:
    """Return a function that colours texts, if this terminal can do so and NO_COLOR allows it.

    Without rich, which extras such as `celery` don't install, nothing is coloured.
    """
    try:
        from rich.console import Console
        from rich.style import Style
    except ModuleNotFoundError:
        return lambda _, text: text
    console = Console(file=sys.stdout)
    system = None if console.no_color else console._color_system  # noqa: SLF001
    if system is None:
        return lambda _, text: text
    styles = {name: Style.parse(one) for name, one in STYLES.items()}
    return lambda name, text: styles[name].render(text, color_system=system)


def find_width() -> int:
    """Return how many columns the terminal has now."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


class Screen:
    """Makes the lines of events, and the last line."""

    def __init__(self, channels: Sequence[str], paint: Paint, *, raw: bool) -> None:
        """Begin with the channels' names, which decide the width of a column.

        Args:
            channels: The channels.
            paint: Colours texts.
            raw: Whether payloads are shown as they came.
        """
        self._paint = paint
        self._raw = raw
        self._column = max((len(printable(one)) for one in channels), default=0)
        self._column = min(self._column, WIDEST)

    def show(self, event: Event, width: int) -> str:
        """Return the line or lines of an event."""
        paint = self._paint
        if not isinstance(event, Notification):
            at = getattr(event, "until", event.since)
            return f"{paint('gap', f'-- {_show_clock(at)}  {describe(event)}')}\n"
        at = event.published_at
        parts = [
            ("time", _show_clock(at or event.received_at)),
            ("channel", f"{printable(event.channel):<{self._column}}"),
        ]
        if at is None:
            parts.append(("pid", str(event.pid).rjust(7)))
        else:
            parts.append(("pid", f"#{event.id}".rjust(7)))
            parts += [("name", printable(event.key))] if event.key is not None else []
        indent = sum(len(text) + 2 for _, text in parts)
        head = "  ".join(paint(*one) for one in parts)
        room = width - indent
        if room < 20:  # a narrow terminal: the payload has lines of its own
            return f"{head}\n  {self._show_payload(event, width - 2, 2)}\n"
        return f"{head}  {self._show_payload(event, room, indent)}\n"

    def _show_payload(self, event: Notification, room: int, indent: int) -> str:
        if self._raw or len(event.raw) > LONGEST or not isinstance(event.payload, list | dict):
            kind = "plain" if self._raw else _kind(event.payload)
            text = show_payload(event, raw=self._raw or len(event.raw) > LONGEST)
            more = f" … {len(event.raw):,} characters" if len(text) > LONGEST else ""
            return self._paint(kind, text[:LONGEST]) + more
        lines = [*_split([*_spread(event.payload, room, 0)])]
        shown = ["".join(self._paint(*token) for token in line) for line in lines[:MOST_LINES]]
        if len(lines) > MOST_LINES:
            shown.append(f"… {len(lines) - MOST_LINES:,} more lines")
        return ("\n" + " " * indent).join(shown)


class Pulse:
    """Counts notifications and gaps, and measures the rate."""

    def __init__(self) -> None:
        """Begin now."""
        self.began = monotonic()
        self.count = self.missed = self.gaps = 0
        self._marks: deque[tuple[float, int]] = deque([(self.began, 0)])
        self._last = 0.0

    def add(self, count: int) -> None:
        """Count a number of notifications."""
        self.count += count
        self._last = monotonic()

    def note_gap(self, missed: int | None) -> None:
        """Count a gap."""
        self.gaps += 1
        self.missed += missed or 0

    def show(self, what: str) -> str:
        """Return the last line's text."""
        now = monotonic()
        if now - self._marks[-1][0] >= 0.2:
            self._marks.append((now, self.count))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW:
            self._marks.popleft()
        began, before = self._marks[0]
        rate = (self.count - before) / max(now - began, 0.2)
        last = f"  last {duration(now - self._last)} ago" if self._last else ""
        return f" {what}  {self.count:,} received  {rate:,.0f}/s{last}{self._show_gaps()} "

    def summarize(self, what: str) -> str:
        """Return a summary with the totals."""
        seconds = monotonic() - self.began
        rate = self.count / seconds if seconds else 0.0
        noun = what if self.count != 1 else {"entries": "entry"}.get(what, what.removesuffix("s"))
        return f"{self.count:,} {noun} in {seconds:.1f} s ({rate:,.1f}/s){self._show_gaps()}"

    def _show_gaps(self) -> str:
        if not self.gaps:
            return ""
        dropped = f" ({self.missed:,} dropped)" if self.missed else ""
        return f"  {self.gaps} gap{'s' if self.gaps != 1 else ''}{dropped}"


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "constant"
    if isinstance(value, int | float | complex | Decimal):
        return "number"
    return "text" if isinstance(value, str | bytes) else "plain"


def _spread(value: Any, room: int, indent: int) -> Iterator[Token]:
    """Yield the tokens of a value, on several lines if it is wider than `room`."""
    is_dict = type(value) is dict
    if not is_dict and type(value) is not list:
        yield _kind(value), printable(repr(value))
        return
    left, right = "{}" if is_dict else "[]"
    is_wide = len(value) > 0 and not _fits(value, room - indent)
    inner = indent + 2
    yield "plain", left
    items = value.items() if is_dict else ((None, one) for one in value)
    for number, (key, one) in enumerate(items):
        if is_wide:
            yield "plain", "\n" + " " * inner
        elif number:
            yield "plain", " "
        if is_dict:
            yield "name", printable(repr(key))
            yield "plain", ": "
        yield from _spread(one, room, inner)
        if number < len(value) - 1:
            yield "plain", ","
    yield "plain", ("\n" + " " * indent if is_wide else "") + right


def _fits(value: Any, room: int) -> bool:
    return len(value) <= room and len(repr(value)) <= room


def _split(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Yield the tokens of each line."""
    line: list[Token] = []
    for style, text in tokens:
        first, *others = text.split("\n")
        line.append((style, first))
        for one in others:
            yield line
            line = [(style, one)]
    yield line


def _show_clock(at: Any) -> str:
    return str(at.astimezone().time().isoformat(timespec="milliseconds"))
