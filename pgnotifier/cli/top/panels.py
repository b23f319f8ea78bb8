"""The lines around the table: the title, the figures, the views and the keys."""

from rich.text import Text

from pgnotifier._runtime.log_records import count
from pgnotifier.cli.printable import printable
from pgnotifier.cli.top.board import Board
from pgnotifier.cli.top.views import VIEWS
from pgnotifier.cli.top.words import draw_sparkline, show_delay, show_number, show_rate

KEYS = (
    ("1-5", "view"),
    ("/", "filter"),
    ("s", "sort"),
    ("r", "reverse"),
    ("m", "mute"),
    ("space", "pause"),
    ("q", "quit"),
)
LABEL = 10
RATE = 10
RIGHT = 32
"""The widths of the figures: of a label, of a rate, and of the part at the right."""


def draw_title(board: Board, shown: str, width: int, *, paused: bool) -> Text:
    """Return the first line: where it connects to, how many listeners there are, the time."""
    silent = () if board.survey is None else board.survey.silent
    parts = [] if board.survey is None else [count(len(board.reports) + len(silent), "listener")]
    if paused:
        parts.append("PAUSED")
    elif board.error is not None:
        parts.append("NOT CONNECTED")
    elif board.survey is None:
        parts.append("asking")
    if board.taken_at is not None:
        parts.append(f"{board.taken_at:%H:%M:%S}")
    right = "  ".join(parts)
    left = Text("pgnotifier top", style="bold")
    left.append(f"  {printable(shown)}", style="not bold")
    left.truncate(max(14, width - len(right) - 2), overflow="ellipsis", pad=True)
    return left.append("  ").append(right, style="bold" if paused or board.error else "")


def draw_figures(board: Board, width: int) -> Text:
    """Return the rates, latencies and sums, in three lines."""
    length = max(8, width - LABEL - RATE - RIGHT - 3)
    delay = board.delay
    figures = [
        f"p50 {show_delay(delay.median)}  p95 {show_delay(delay.p95)}  p99 {show_delay(delay.p99)}"
        if delay
        else "no delivery in the last minute"
    ]
    trip = board.round_trip
    figures.append("" if trip is None else f"round trip {show_delay(trip)}")
    text = Text(no_wrap=True, overflow="ellipsis")
    for label, rates, figure in (
        ("received", board.received, figures[0]),
        ("delivered", board.delivered, figures[1]),
    ):
        rate = show_rate(rates[-1]) if rates else "-"
        text.append(f"{label:<{LABEL}}", "dim").append(rate.rjust(RATE), "bold").append(" ")
        text.append(draw_sparkline(rates, length), "cyan").append(f"  {figure}\n")
    waiting, size = board.buffers
    sums = [
        ("buffers", f"{show_number(waiting)} of {show_number(size)}"),
        ("lag", show_number(board.lag)),
        ("dead", show_number(board.dead)),
        ("gaps", show_number(sum(one.gaps for one in board.reports))),
        ("errors", show_number(sum(one.errors for one in board.reports))),
    ]
    lengths = [one.length for one in board.queues if one.length is not None]
    if lengths:
        sums.insert(1, ("queues", show_number(sum(lengths))))
    for label, value in sums:
        text.append(f"{label} ", "dim").append(f"{value}   ", "bold")
    return text


def draw_tabs(active: int) -> Text:
    """Return the names of the views, with the keys that open them."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for place, view in enumerate(VIEWS):
        style = "reverse bold" if place == active else ""
        text.append(f" {place + 1} {view.name} ", style).append(" ")
    return text


def draw_keys() -> Text:
    """Return the keys."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for key, what in KEYS:
        text.append(f" {key} ", "reverse").append(f" {what}  ")
    return text
