"""Keep the entry of the log for which a callback is being called, in the callback's own context."""

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from pgnotifier.notification import Entry

_current: ContextVar[Entry | None] = ContextVar("pgnotifier_entry", default=None)

called_entry: Callable[[], Entry | None] = _current.get
"""Return the entry for which the calling callback was called in this process, or None."""


def call_for(entry: Entry, fn: Callable[[Any, str, Any, int], object], id: Any) -> None:
    """Call a callback for an entry. This is quicker than `called_for`."""
    token = _current.set(entry)
    try:
        fn(id, entry.channel, entry.payload, entry.pid)
    finally:
        _current.reset(token)


class called_for:  # noqa: N801 - used as a function
    """Return a context manager to call a callback in, for an entry.

    For other notifications there is no entry in the block, even if it is executed by a callback
    that was called for one.
    """

    __slots__ = ("_entry", "_token")

    def __init__(self, arrived: object) -> None:
        self._entry = arrived if isinstance(arrived, Entry) else None

    def __enter__(self) -> None:
        self._token = _current.set(self._entry)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current.reset(self._token)


def forget() -> None:
    """Forget the entry of the callback that has started this thread.

    Threads can inherit their starter's context:
    https://docs.python.org/3.14/library/sys.html#sys.flags.
    """
    _current.set(None)
