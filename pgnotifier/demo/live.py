"""Show the demo in a terminal as a frame that is updated, made with rich."""

import json
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pgnotifier.demo.accounting import Account, Execution, ReportedGap, Result, Sent
from pgnotifier.demo.view import (
    CUT,
    View,
    describe,
    describe_gap,
    describe_verdict,
    list_figures,
    show_latency,
    show_time,
)

FRAMES_A_SECOND = 12
WIDTH = 100
"""Maximum columns; wider lines are hard to read."""
OTHER_LINES = 17
"""How many lines of a frame are not rows of the table."""
MAX_ROWS = 12
SUBJECT = "inserted rows become Celery tasks"
SHORT = {
    "sent while cut off": "cut off",
    "inside the reported gap": "in the gap",
    "unexplained": "lost",
    "executed twice": "twice",
    "median latency": "median",
    "p99 latency": "p99",
}
STYLES = {"alpha": "cyan", "beta": "magenta"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: a notification, sent by the demo or by somebody else."""

    key: str
    channel: str
    text: str
    at: float


class LiveView(View):
    """Redraws one frame: the route, the latest notifications, and the progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        console.width = min(console.width, WIDTH)
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._parts: dict[str, str] = {}
        self._account = Account()
        self._total = 0
        self._rows: deque[Row] = deque(maxlen=MAX_ROWS)
        self._events: list[Text] = []
        self._result: Result | None = None
        self._disconnected = False
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Draw the last frame, and restore the cursor."""
        if self._live.is_started:
            self._draw()
            self._live.stop()

    def part(self, name: str, state: str) -> None:
        """Show the part in the route."""
        self._parts[name] = state
        self._draw()

    def begin(self, account: Account, total: int) -> None:
        """Show this account from now on."""
        self._account, self._total = account, total

    def sent(self, sent: Sent) -> None:
        """Add a row to the table."""
        self._rows.append(Row(sent.key, sent.channel, sent.text, sent.begun_at))

    def executed(self, execution: Execution, sent: Sent | None) -> None:
        """Add a row for a notification of somebody else; print a line once the frame is final."""
        if not self._live.is_started:
            self._print(f"{show_time(execution.at)}  {describe(execution, sent)}")
        elif sent is None:
            text = json.dumps(execution.payload)
            self._rows.append(Row(execution.key, execution.channel, text, execution.at))

    def cut(self) -> None:
        """Show the listener as disconnected."""
        self._disconnected = True
        self._add_event("✂", "red", CUT)

    def reconnected(self, gap: ReportedGap) -> None:
        """Show the listener as listening."""
        self._disconnected = False
        self._add_event("✔", "green", describe_gap(gap))

    def update(self) -> None:
        """Draw, at most 12 times a second."""
        if self._live.is_started and time.monotonic() >= self._drawn_at + 1 / FRAMES_A_SECOND:
            self._draw()

    def end(self, result: Result) -> None:
        """Show the figures instead of the progress."""
        self._result = result
        self._draw()

    def keep(self, text: str) -> None:
        """Print the text below the last frame: text that is redrawn can't be copied."""
        self._live.stop()
        self._print(f"\n{text}\n")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _add_event(self, mark: str, style: str, text: str) -> None:
        line = Text.assemble((f" {mark} ", style), (f"{show_time(time.time())}  ", "dim"), text)
        self._events.append(line)
        self._draw()

    # --- drawing ---

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        self._live.update(self._frame(), refresh=True)

    def _frame(self) -> RenderableType:
        nothing = Text()
        foot = self._progress() if self._result is None else self._figures(self._result)
        return Group(
            Rule(
                Text.assemble(("pgnotifier demo", "bold"), f": {SUBJECT}"),
                characters="─",
                style="blue",
            ),
            nothing,
            self._route(),
            nothing,
            self._table(),
            nothing,
            foot,
            *self._events[-2:],
        )

    def _route(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 1))
        heads = ["PostgreSQL", "listener", "Valkey", "workers"]
        arrow = Text("━━▶", "blue")
        cells: list[RenderableType] = []
        for head in heads:
            cells += [Text(head, "bold"), arrow]
        grid.add_row(*cells[:-1])
        state = (
            Text("disconnected", "bold red") if self._disconnected else Text("listening", "green")
        )
        grid.add_row(
            self._state("PostgreSQL"),
            "",
            self._state("listener"),
            "",
            self._state("Valkey"),
            "",
            self._worker("alpha"),
        )
        grid.add_row(
            Text(f"{len(self._account.sent)} sent"),
            "",
            state if self._is_up("listener") else "",
            "",
            "",
            "",
            self._worker("beta"),
        )
        return grid

    def _is_up(self, name: str) -> bool:
        return self._parts.get(name, "starting") != "starting"

    def _state(self, name: str) -> Text:
        return Text(self._parts.get(name, ""), "green" if self._is_up(name) else "dim")

    def _worker(self, name: str) -> Text:
        counts = self._account.tally().get(name, {})
        pids = ", ".join(map(str, sorted(counts)))
        done = f"  {sum(counts.values()):>3} tasks by {pids}" if counts else ""
        state = "" if counts else f"   {self._parts.get(name, '')}"
        return Text.assemble((name, STYLES[name]), (state, "dim"), done)

    def _table(self) -> RenderableType:
        table = Table(box=None, expand=True, padding=(0, 1), header_style="dim", pad_edge=True)
        table.add_column("sent", style="dim", width=8, no_wrap=True)
        table.add_column("notification", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("ran on", width=13, no_wrap=True)
        table.add_column("after", width=8, justify="right", no_wrap=True)
        height = max(3, min(MAX_ROWS, self._console.height - OTHER_LINES))
        rows = list(self._rows)[-height:]
        for row in rows:
            what = Text.assemble((f"{row.channel:<6} ", "yellow"), row.text)
            table.add_row(show_time(row.at)[:8], what, *self._outcome(row))
        for _ in range(height - len(rows)):
            table.add_row("")
        return table

    def _outcome(self, row: Row) -> tuple[Text, Text]:
        executions = self._account.executions.get(row.key)
        sent = self._account.sent.get(row.key)
        if executions:
            first = executions[0]
            where = Text(f"{first.worker} {first.pid}", STYLES.get(first.worker, ""))
            return where, Text(show_latency(first, sent) if sent else "", "green")
        if sent and self._account.is_in_gap(sent):
            return Text("in the gap", "red"), Text("missed", "red")
        return Text("...", "dim"), Text()

    def _progress(self) -> RenderableType:
        done = len(self._account.sent) - len(self._account.find_unexplained())
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right")
        progress = ProgressBar(total=max(1, self._total), completed=done)
        grid.add_row(progress, Text(f"{done} of {self._total}" if self._total else "starting"))
        return grid

    def _figures(self, result: Result) -> RenderableType:
        table = Table.grid(padding=(0, 2, 0, 1))
        names = [SHORT.get(name, name) for name, _ in list_figures(result.plain)]
        table.add_row("", *(Text(name, "dim") for name in names))
        for kind, summary in (("plain", result.plain), ("durable", result.durable)):
            bad = {"unexplained": summary.unexplained, "executed twice": summary.doubled}
            figures = list_figures(summary)
            table.add_row(
                Text(kind, "yellow"),
                *(Text(value, "bold red" if bad.get(name) else "bold") for name, value in figures),
            )
        mark = ("✔", "green") if result.is_good else ("✘", "bold red")
        return Group(table, Text.assemble((f" {mark[0]} ", mark[1]), describe_verdict(result)))
