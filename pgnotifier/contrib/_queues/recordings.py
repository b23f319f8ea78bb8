"""Capture what a `with outbox(…):` block publishes, so that it isn't sent to the broker.

A block is active in a context of `contextvars`: threads have their own, and asyncio's tasks inherit
that of the code that starts them.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pgnotifier._log.composing import Draft


class Recording:
    """The entries of a block, in order. It takes them until the block ends.

    Attributes:
        owner: What the entries are for.
        outer: The recording of the block around it, maybe for another owner.
        drafts: The entries.
        is_open: Whether the block is still executed. A task of asyncio may outlive it.
    """

    def __init__(
        self, owner: Any, outer: "Recording | None", look: Callable[[], None] | None
    ) -> None:
        self.owner = owner
        self.outer = outer
        self.drafts: list[Draft] = []
        self.is_open = True
        self._look = look
        self._process = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process has begun it. A forked child leaves it to its parent."""
        return self._process == os.getpid()

    def takes(self, task: str) -> bool:  # noqa: ARG002
        """Return True: in a block, everything is captured."""
        return True

    def add(self, draft: Draft) -> None:
        """Take an entry."""
        self.drafts.append(draft)
        if self._look is not None:
            self._look()


_active: ContextVar[Recording | None] = ContextVar("pgnotifier_outbox", default=None)
_is_suspended: ContextVar[bool] = ContextVar("pgnotifier_outbox_suspended", default=False)


@contextmanager
def record(owner: Any, look: Callable[[], None] | None = None) -> Iterator[Recording]:
    """Yield a recording that takes what the block publishes.

    Args:
        owner: What the entries are for.
        look: What to call for each entry.
    """
    recording = Recording(owner, _active.get(), look)
    token = _active.set(recording)
    try:
        yield recording
    finally:
        recording.is_open = False
        # Asyncio may end a generator in another context.
        with contextlib.suppress(ValueError):
            _active.reset(token)


def find_recording(is_owner: Callable[[Any], bool]) -> Recording | None:
    """Return the recording of the innermost block with a matching owner, or None."""
    one = _active.get()
    while one is not None:
        if one.is_open and one.is_ours and is_owner(one.owner):
            return one
        one = one.outer
    return None


@contextmanager
def not_captured() -> Iterator[None]:
    """Have everything that the block publishes sent to the broker, even if an outbox is active.

    A relay that captured what it sends would put it into its own outbox.
    """
    token = _is_suspended.set(True)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _is_suspended.reset(token)


def is_suspended() -> bool:
    """Return whether nothing is captured here."""
    return _is_suspended.get()
