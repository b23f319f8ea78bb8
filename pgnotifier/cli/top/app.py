"""The screen of `pgnotifier top`."""

import asyncio
import contextlib
import signal
import sys
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import ContentSwitcher, DataTable, Input, Static

from pgnotifier._runtime.log_records import count
from pgnotifier.cli.exits import INTERRUPTED
from pgnotifier.cli.top.asking import Confirmation
from pgnotifier.cli.top.board import Board, name_listener
from pgnotifier.cli.top.checking import is_terminal
from pgnotifier.cli.top.panels import draw_figures, draw_keys, draw_tabs, draw_title
from pgnotifier.cli.top.queues import QueueWatcher
from pgnotifier.cli.top.rows import choose_rows
from pgnotifier.cli.top.table import LiveTable
from pgnotifier.cli.top.views import VIEWS
from pgnotifier.cli.top.watching import Look, Outcome, Watching


class TopApp(App[int]):
    """Shows what a watcher finds. All of it runs on the main thread, and never waits."""

    TITLE = "pgnotifier top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    .line { height: 1; width: 100%; }
    #figures { height: 3; width: 100%; margin-bottom: 1; }
    ContentSwitcher { height: 1fr; }
    LiveTable { height: 100%; width: 100%; scrollbar-size: 1 1; }
    LiveTable:focus { background-tint: $foreground 0%; }
    LiveTable > .datatable--fixed { background: $surface; color: $foreground; }
    LiveTable > .datatable--cursor { text-style: bold reverse; }
    #detail { height: auto; min-height: 1; max-height: 3; width: 100%; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #message { height: auto; min-height: 1; max-height: 2; width: 100%; }
    #message.bad { text-style: bold; color: $error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(place + 1), f"view({place})") for place in range(len(VIEWS))),
        Binding("tab", "turn(1)", priority=True),
        Binding("shift+tab", "turn(-1)", priority=True),
        Binding("slash", "filter"),
        Binding("s", "sort"),
        Binding("r", "reverse"),
        Binding("m", "mute"),
        Binding("space", "pause"),
        Binding("escape", "clear"),
        Binding("q", "leave"),
        Binding("ctrl+c", "leave(130)", priority=True),
        Binding("ctrl+z", "suspend_process", priority=True),
    ]

    class News(Message):
        """The watcher has something to show."""

        def __init__(self, what: Look | Outcome) -> None:
            """Take it."""
            super().__init__()
            self.what = what

    def __init__(self, shown: str, watcher: Watching, queues: QueueWatcher | None = None) -> None:
        """Make the screen; nothing is asked yet.

        Args:
            shown: Where the watcher connects to, without the password.
            watcher: Asks the listeners.
            queues: Asks the brokers.
        """
        super().__init__()
        self._shown = shown
        self._watcher = watcher
        self._queues = queues or QueueWatcher()
        self._board = Board()
        self._paused = False
        self._words = ""
        self._said: Outcome | None = None

    # --- the screen ---

    def compose(self) -> ComposeResult:
        """Yield the lines and the tables."""
        yield Static(id="title", classes="line")
        yield Static(id="figures")
        yield Static(id="tabs", classes="line")
        yield Static(id="caption", classes="line")
        with ContentSwitcher(initial="view-0"):
            for place, view in enumerate(VIEWS):
                yield LiveTable(view, id=f"view-{place}")
        yield Static(id="detail")
        yield Static(id="message")
        yield Input(id="filter", placeholder="filter: Enter keeps it, Escape clears it")
        yield Static(draw_keys(), id="keys", classes="line")

    def on_mount(self) -> None:
        """Begin to ask."""
        self.animation_level = "none"
        loop = asyncio.get_running_loop()
        for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 128 + 15)):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, self.exit, code)
        self.app_resume_signal.subscribe(self, self._resume)
        self._table.focus()
        self._draw()
        self.set_interval(1.0, self._tick)
        self._watcher.start(lambda what: self.post_message(self.News(what)))

    def action_suspend_process(self) -> None:
        """Stop on Ctrl-Z, without a connection meanwhile: see `Watcher`."""
        self._watcher.pause(wait=True)
        super().action_suspend_process()

    def _resume(self, _: App[int]) -> None:
        if not self._paused:
            self._watcher.resume()

    def on_unmount(self) -> None:
        """Stop asking."""
        self._queues.stop()
        self._watcher.stop()

    @property
    def _switcher(self) -> ContentSwitcher:
        return self.screen_stack[0].query_one(ContentSwitcher)

    @property
    def _place(self) -> int:
        return int((self._switcher.current or "view-0").removeprefix("view-"))

    @property
    def _table(self) -> LiveTable:
        return self._switcher.query_one(f"#view-{self._place}", LiveTable)

    def _line(self, name: str) -> Static:
        return self.screen_stack[0].query_one(f"#{name}", Static)

    # --- drawing ---

    def on_top_app_news(self, message: News) -> None:
        """Show what the watcher has found."""
        if isinstance(message.what, Outcome):
            self._said = message.what
        else:
            survey = message.what.survey
            queues = () if survey is None else self._queues.latest(survey.reports)
            self._board.take(message.what, queues)
        self._draw()

    def on_live_table_resized(self) -> None:
        """Draw all of it for another width."""
        self._draw()

    def _draw(self) -> None:
        board, width = self._board, self.size.width
        self._line("title").update(draw_title(board, self._shown, width, paused=self._paused))
        self._line("figures").update(draw_figures(board, width))
        self._line("tabs").update(draw_tabs(self._place))
        table = self._table
        rows, known = choose_rows(
            [*table.view.list_rows(board)], self._words, table.sorted_by, falling=table.falling
        )
        table.show(rows)
        self._line("caption").update(self._make_caption(table, len(rows), known))
        self._draw_detail()
        self._draw_message()

    def _tick(self) -> None:
        if not self.is_headless and not is_terminal(sys.__stdin__):
            self.exit(128 + 1)  # it was closed, and nobody has sent SIGHUP
        if self._board.error is not None:  # its time goes on
            self._draw_message()

    def _make_caption(self, table: LiveTable, shown: int, known: int) -> Text:
        view = table.view
        parts = [count(known, view.noun) if known else view.empty]
        if self._board.survey is None:
            parts = ["no answer yet"]
        if self._words:
            parts.append(f"{shown} with {self._words!r}")
        parts.append(f"by {view.columns[table.sorted_by].title.lower()}")
        if view.name == "Queues" and not self._queues.is_configured:
            parts.append("queues of brokers: -A, -m, --settings")
        return Text(" · ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")

    def _draw_detail(self) -> None:
        chosen = self._table.chosen
        self._line("detail").update(Text(chosen.detail if chosen else "", overflow="ellipsis"))

    def _draw_message(self) -> None:
        problem = self._board.problem
        said = self._said
        is_bad = problem is not None if said is None else said.failed
        text = said.text if said is not None else problem or ""
        line = self._line("message")
        line.set_class(is_bad, "bad")
        mark = "! " if is_bad else ""
        line.update(Text(f"{mark}{text}", overflow="ellipsis"))

    # --- keys ---

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the keys to a question that is open, apart from those that end the program."""
        if isinstance(self.screen, Confirmation) and action in ("turn", "view", "filter", "mute"):
            return False
        return super().check_action(action, parameters)

    def action_view(self, place: int) -> None:
        """Show a view."""
        self._switcher.current = f"view-{place}"
        self._said = None
        self._table.focus()
        self._draw()

    def action_turn(self, step: int) -> None:
        """Show the next view, or the one before."""
        self.action_view((self._place + step) % len(VIEWS))

    def action_sort(self) -> None:
        """Sort by the next column."""
        table = self._table
        table.sort_by((table.sorted_by + 1) % len(table.view.columns))
        self._draw()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._table.sort_by(self._table.sorted_by)
        self._draw()

    @on(DataTable.HeaderSelected)
    def sort_by_header(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked on."""
        self._table.sort_by(event.column_index)
        self._draw()

    def on_data_table_row_highlighted(self) -> None:
        """Show the details of the row that the cursor is on."""
        self._draw_detail()

    def action_filter(self) -> None:
        """Ask what to filter by."""
        line = self.query_one("#filter", Input)
        line.display = True
        self._line("message").display = False
        line.value = self._words
        line.focus()

    @on(Input.Changed, "#filter")
    def filter_by(self, event: Input.Changed) -> None:
        """Show the rows that contain what was typed so far."""
        self._words = event.value.strip()
        self._draw()

    @on(Input.Submitted, "#filter")
    def keep_filter(self) -> None:
        """Keep the filter, and go back to the table."""
        self.query_one("#filter", Input).display = False
        self._line("message").display = True
        self._table.focus()

    def action_clear(self) -> None:
        """Remove the filter and the last message."""
        self._words, self._said = "", None
        self.query_one("#filter", Input).value = ""
        self.keep_filter()
        self._draw()

    def action_pause(self) -> None:
        """Stop asking, or go on."""
        self._paused = not self._paused
        if self._paused:
            self._watcher.pause()
        else:
            self._watcher.resume()
        self._draw()

    def action_leave(self, code: int = 0) -> None:
        """End."""
        self.exit(code)

    def action_mute(self) -> None:
        """Mute or unmute the row that the cursor is on; ask first if that loses notifications."""
        chosen = self._table.chosen
        if chosen is None or chosen.channel is None:
            self._say("choose a channel or a subscription to mute: 2 or 3", failed=True)
            return
        verb, orders, refusing = self._board.make_orders(chosen)
        what = f"channel {chosen.cells[0]!r}"
        if chosen.subscription is not None:
            what = f"subscription {chosen.cells[1]!r} to {what}"
        if not orders:
            self._say(
                f"{self._name_refusing()} take{'s' if refusing == 1 else ''} no orders: made "
                "without remote_commands=True",
                failed=True,
            )
            return
        where = f"in {count(len(orders), 'listener')}"
        left = f"; {refusing} more take no orders" if refusing else ""
        done = f"{verb}d {what} {where}{left}"

        def go(yes: bool | None) -> None:
            if yes:
                self._say(f"asking for that: {verb} {what}", failed=False)
                self._watcher.order(orders, done)

        if verb == "unmute":
            go(yes=True)
        else:
            self.push_screen(
                Confirmation(f"Mute {what} {where}{left}?\nWhat is notified meanwhile is lost."), go
            )

    def _name_refusing(self) -> str:
        names = [name_listener(one) for one in self._board.reports if not one.takes_orders]
        return f"listener {names[0]}" if len(names) == 1 else f"{len(names)} listeners"

    def _say(self, text: str, *, failed: bool) -> None:
        self._said = Outcome(text, failed)
        self._draw_message()
