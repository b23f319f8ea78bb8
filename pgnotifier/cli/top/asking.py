"""The question before something is muted."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import Static


class Confirmation(ModalScreen[bool]):
    """Asks a question that `y` says yes to, and any of `n`, Escape and Enter no."""

    DEFAULT_CSS = """
    Confirmation { align: center middle; }
    Confirmation Static { width: auto; max-width: 90%; height: auto; padding: 1 2; border: round; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)"),
        Binding("n,escape,enter,q,m", "answer(False)"),
    ]

    def __init__(self, text: str) -> None:
        """Take the question."""
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Show the question."""
        yield Static(Text(f"{self._text}\n\ny  yes    n  no"))

    def action_answer(self, yes: bool) -> None:
        """End with an answer."""
        self.dismiss(yes)
