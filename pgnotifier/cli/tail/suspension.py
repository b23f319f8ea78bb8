"""Ctrl-Z: stop listening before the process stops, or PostgreSQL would have to keep everything."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Self


class Suspension:
    """Notes SIGTSTP, and stops the process at the next safe moment."""

    def __init__(self, pause: Callable[[], object], resume: Callable[[], object]) -> None:
        """Take what is called before the process stops, and after it goes on."""
        self._pause = pause
        self._resume = resume
        self._is_wanted = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTSTP, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTSTP, self._before)

    def take_place(self) -> tuple[datetime, datetime] | None:
        """Stop until SIGCONT comes, if Ctrl-Z was pressed; return from when to when that was."""
        if not self._is_wanted:
            return None
        since = datetime.now(UTC)
        self._pause()
        self._is_wanted = False
        os.kill(os.getpid(), signal.SIGSTOP)
        self._resume()
        return since, datetime.now(UTC)

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._is_wanted = True
