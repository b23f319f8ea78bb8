"""The loop of `pgnotifier tail`: from the inbox to a terminal, a pipe or a file."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from time import monotonic

import click

from pgnotifier._runtime.log_records import count
from pgnotifier.cli.printable import printable
from pgnotifier.cli.tail.inbox import Cut, Event, Inbox, Loss
from pgnotifier.cli.tail.lines import make_json, make_line
from pgnotifier.cli.tail.output import Output
from pgnotifier.cli.tail.suspension import Suspension
from pgnotifier.cli.tail.terminal import Pulse, Screen, find_paint, find_width
from pgnotifier.notification import Notification

FRAME = 0.1
"""Seconds between two changes of the last line, at least."""
LOOK = 0.25
"""Seconds without an event after which this checks whether the output was closed."""
MOST_SHOWN = 100
"""How many notifications are shown in a frame of the terminal; the others are counted."""
NAMED = 3
"""How many channels the last line names."""
_CLEAR = "\r\x1b[2K"


class Viewer:
    """Shows events: in a terminal with a last line that changes, elsewhere a line for each.

    Attributes:
        count: How many notifications there were.
    """

    def __init__(
        self, channels: Sequence[str], output: Output, *, as_json: bool, raw: bool, durable: bool
    ) -> None:
        """Begin without events.

        Args:
            channels: The channels.
            output: Where to write.
            as_json: Whether to write JSON.
            raw: Whether payloads are shown as they came.
            durable: Whether they are entries of the log.
        """
        self._output = output
        self._what = "entries" if durable else "notifications"
        self._named = name_channels(channels)
        self._format = partial(make_json if as_json else make_line, raw=raw)
        self._screen: Screen | None = None
        if sys.stdout.isatty() and not as_json and os.environ.get("TERM") != "dumb":
            self._screen = Screen(channels, paint := find_paint(), raw=raw)
            self._paint = paint
        self._pulse = Pulse()
        self._frame_at = 0.0
        self._shown = self._hidden = 0

    @property
    def count(self) -> int:
        """How many notifications there were."""
        return self._pulse.count

    def begin(self) -> None:
        """Say what is listened to, and begin to count."""
        self._pulse = Pulse()
        if self._screen is None:
            click.echo(f"listening to {self._named}; Ctrl-C ends", err=True)

    def show(self, events: Sequence[Event], until: float, *, everything: bool) -> bool:
        """Show events; return False if the time is over before all of them are written.

        Args:
            events: The events.
            until: When the time is over.
            everything: Whether a terminal shows all of them, however fast they come.
        """
        for event in events:
            if isinstance(event, Notification):
                self._pulse.add(1)
            elif isinstance(event, Loss):
                self._pulse.note_gap(event.missed)
        if self._screen is None:
            return self._output.write("".join(map(self._format, events)), until)
        now, width, lines = monotonic(), find_width(), []
        if now >= self._frame_at + FRAME:
            self._shown, self._frame_at = 0, now
            lines += self._show_hidden()
        for event in events:
            if isinstance(event, Cut | Loss) or everything or self._shown < MOST_SHOWN:
                self._shown += isinstance(event, Notification)
                lines.append(self._screen.show(event, width))
            else:
                self._hidden += 1
        return self._redraw(lines, width, until)

    def idle(self, until: float) -> bool:
        """Show that nothing has come; return False if the time is over."""
        self._output.check()
        if self._screen is None:
            return True
        return self._redraw(self._show_hidden(), find_width(), until)

    def end(self) -> None:
        """Clear the last line, and print figures to standard error."""
        if self._screen is not None:
            self._output.write(_CLEAR + "".join(self._show_hidden()), monotonic() + FRAME)
        click.echo(self._pulse.summarize(self._what), err=True)

    def _show_hidden(self) -> list[str]:
        hidden, self._hidden = self._hidden, 0
        return [f"-- {hidden:,} more, too fast to show\n"] if hidden else []

    def _redraw(self, lines: Sequence[str], width: int, until: float) -> bool:
        # One column less: in the last one, some terminals begin a new line.
        last = self._pulse.show(self._named)[: width - 1]
        status = self._paint("status", last)
        return self._output.write(f"{_CLEAR}{''.join(lines)}{status}", until)


def follow(inbox: Inbox, viewer: Viewer, most: float, until: float, suspension: Suspension) -> bool:
    """Show what comes until the time is over; return whether `most` notifications have come.

    Args:
        inbox: What comes.
        viewer: Shows it.
        most: After how many it ends; infinity for never.
        until: When it ends, by `time.monotonic()`; infinity for never.
        suspension: Stops the process after Ctrl-Z.
    """
    everything = most != float("inf")
    while (left := until - monotonic()) > 0:
        events = inbox.take(min(LOOK, left))
        if (stopped := suspension.take_place()) is not None:
            events = [*events, Loss(*stopped, "the process was stopped by Ctrl-Z", ())]
        if not events:
            if not viewer.idle(until):
                break
            continue
        if everything:
            events = cut_off(events, int(most) - viewer.count)
        if not viewer.show(events, until, everything=everything):
            break
        if viewer.count >= most:
            return True
    return False


def cut_off(events: Sequence[Event], most: int) -> Sequence[Event]:
    """Return events up to a number of notifications."""
    for at, event in enumerate(events, 1):
        most -= isinstance(event, Notification)
        if not most:
            return events[:at]
    return events


def name_channels(channels: Sequence[str]) -> str:
    """Return the names of some channels, or how many there are."""
    if len(channels) > NAMED:
        return count(len(channels), "channel")
    return ", ".join(map(printable, channels))
