"""A table that updates only the cells that have changed since the last survey."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable

from pgnotifier.cli.top.rows import Column, Row
from pgnotifier.cli.top.views import View

LEAST = 18
"""The width of a first column, at least. What doesn't fit then is reached with the arrow keys."""
MOST = 60
"""Its width at most, so that figures are near the names that they belong to."""
PADDING = 2
"""Characters between two columns."""
MOST_REMOVED = 20
"""How many rows are removed singly. With more it is cheaper to begin again."""
_STYLES = {"bad": "bold red", "quiet": "dim"}


class LiveTable(DataTable[Text]):
    """Shows rows in the order in which they are given.

    The table's own rows are places: the first one shows whatever comes first. So nothing moves
    when the order changes. Rows out of sight cost nothing to draw. Cells are texts without markup.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top"),
        Binding("end", "scroll_bottom"),
    ]

    class Resized(Message):
        """The table needs its rows again, because its width has changed."""

    def __init__(self, view: View, id: str) -> None:
        """Make the table of a view."""
        super().__init__(id=id, cursor_type="row", fixed_columns=1)
        self.view = view
        self.sorted_by = view.sorted_by
        self.falling = view.columns[view.sorted_by].falling
        self._rows: Sequence[Row] = ()
        self._built = 0  # the width that it was built for

    @property
    def chosen(self) -> Row | None:
        """The row that the cursor is on."""
        return self._rows[self.cursor_row] if 0 <= self.cursor_row < len(self._rows) else None

    def sort_by(self, column: int) -> None:
        """Sort by a column; if the table is already sorted by it, reverse the order."""
        if column == self.sorted_by:
            self.falling = not self.falling
        else:
            self.sorted_by, self.falling = column, self.view.columns[column].falling

    def on_resize(self) -> None:
        """Have the first column get another width."""
        self.post_message(self.Resized())

    def show(self, rows: Sequence[Row]) -> None:
        """Show rows, in this order.

        The cursor stays on its row, wherever that is now. But if it is on the first row, it stays
        at the top: somebody who hasn't moved it wants to see what comes first.
        """
        if self.size.width == 0:  # it has not been visible yet
            return
        under, place = self.chosen, max(0, self.cursor_row)
        with self.app.batch_update():
            self._begin_again_if_needed(len(rows))
            self._mark_column()
            for index, row in enumerate(rows):
                if index < len(self._rows):
                    self._change(index, self._rows[index], row)
                else:
                    self.add_row(*self._draw(row), key=str(index))
            for index in range(len(rows), len(self._rows)):
                self.remove_row(str(index))
            self._rows = rows
            if place and under is not None:
                keys = (index for index, row in enumerate(rows) if row.key == under.key)
                place = next(keys, min(place, max(0, len(rows) - 1)))
            if place != self.cursor_row and rows:
                self.move_cursor(row=place)

    def _begin_again_if_needed(self, count: int) -> None:
        """Remove all rows if the columns change, or if many rows have to go."""
        if self.size.width != self._built:
            self._built = self.size.width
            self.clear(columns=True)
            for place, (column, width) in enumerate(self._fit()):
                self.add_column(self._title(place, column), width=width, key=str(place))
        elif len(self._rows) - count > MOST_REMOVED:
            self.clear()
        else:
            return
        self._rows = ()

    def _mark_column(self) -> None:
        titles = [self._title(place, one) for place, one in enumerate(self.view.columns)]
        if titles == [one.label for one in self.ordered_columns]:
            return
        for column, title in zip(self.ordered_columns, titles, strict=True):
            column.label = title
        if self._rows:  # a cell that changes has the headings drawn again
            self.update_cell("0", "0", self._draw_cell(self._rows[0], 0))

    def _change(self, index: int, before: Row, row: Row) -> None:
        for place, cell in enumerate(row.cells):
            if cell != before.cells[place] or row.tone != before.tone:
                self.update_cell(str(index), str(place), self._draw_cell(row, place))

    # --- how it looks ---

    def _fit(self) -> list[tuple[Column, int]]:
        columns = self.view.columns
        taken = sum(one.width for one in columns) + PADDING * len(columns)
        rest = self.size.width - taken - 1  # one is left for scrolling
        rest = min(max(rest, LEAST), MOST)
        return [(one, one.width or rest) for one in columns]

    def _title(self, place: int, column: Column) -> Text:
        mark = ("▼" if self.falling else "▲") if place == self.sorted_by else ""
        title = f"{column.title}{mark}"
        return Text(title, justify="right" if column.right else "left", no_wrap=True)

    def _draw(self, row: Row) -> list[Text]:
        return [self._draw_cell(row, place) for place in range(len(row.cells))]

    def _draw_cell(self, row: Row, place: int) -> Text:
        right = self.view.columns[place].right
        return Text(
            row.cells[place],
            style=_STYLES.get(row.tone, ""),
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
