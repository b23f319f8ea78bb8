"""Receipts: which of the entries that were read together are settled."""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

TRACEBACK_CHARS = 20_000
"""How much of a traceback is kept: its end, which shows what has failed."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What is kept of an exception with which an entry has failed.

    Attributes:
        error: Its type and message.
        traceback: Its traceback.
    """

    error: str
    traceback: str

    @classmethod
    def of(cls, exc: BaseException) -> "Reason":
        """Return it for an exception, whatever its own methods raise."""
        try:
            error = "".join(traceback.format_exception_only(exc)).strip()
            trace = "".join(traceback.format_exception(exc))
        except Exception:  # noqa: BLE001 - a user's __str__
            error = trace = type(exc).__name__
        # PostgreSQL stores neither NUL nor lone surrogates.
        return cls(_fit(error)[:TRACEBACK_CHARS], _fit(trace)[-TRACEBACK_CHARS:])


class Ledger:
    """Which entries of those that were read together aren't settled yet. Any thread may write it.

    The source's thread keeps the ledger; the entries that it hands out have the receipt. Each step
    is a single operation on a set or dict, so no lock is needed.

    Attributes:
        left: The entries that aren't settled, by their numbers.
        failures: Those that are settled because they have failed.
        is_lost: Whether nobody can settle what is left, because nobody has it any more.
    """

    def __init__(self, entries: Iterable[int], on_change: Callable[[], object]) -> None:
        """Begin with entries of which none is settled.

        Args:
            entries: Their numbers.
            on_change: Called once all are settled, or lost.
        """
        self.left = set(entries)
        self.failures: dict[int, Reason] = {}
        self.is_lost = False
        self._on_change = on_change

    @property
    def is_done(self) -> bool:
        """Whether all are settled."""
        return not self.left

    def settle(self, entry: int) -> None:
        """Note that an entry is done; a no-op if it was settled before."""
        if entry in self.left:
            self.left.discard(entry)
            if not self.left:
                self._on_change()

    def settle_all(self, entries: Iterable[int]) -> None:
        """Note that entries are done; those that were settled before stay as they are."""
        if self.left:
            self.left.difference_update(entries)
            if not self.left:
                self._on_change()

    def fail(self, entry: int, reason: Reason) -> None:
        """Note that an entry has failed; a no-op if it was settled before."""
        if entry in self.left:
            self.failures[entry] = reason
            self.settle(entry)

    def lose(self) -> None:
        """Note that nobody has what is left."""
        self.is_lost = True
        if self.left:
            self._on_change()


class SharedReceipt:
    """What the entries that were read together refer to, until each of them is settled.

    When the last of them is gone, so is the receipt, and the ledger notes that. So nobody waits in
    vain for what was dropped, for example by a mute, an `unsubscribe()` or a `stop()`.
    """

    __slots__ = ("__weakref__", "_ledger", "_mutes")

    def __init__(self, ledger: Ledger, mutes: int) -> None:
        """Make the receipt of a ledger.

        Args:
            ledger: Where to note what is settled.
            mutes: How many times the binding had been muted when the entries were read.
        """
        self._ledger = ledger
        self._mutes = mutes

    def __del__(self) -> None:
        self._ledger.lose()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Leave it out of copies of an entry in other processes."""
        return _nothing, ()

    def __repr__(self) -> str:
        return f"<receipt, {len(self._ledger.left)} left>"

    def settle(self, entry: int) -> None:
        """Note that an entry is done."""
        self._ledger.settle(entry)

    def settle_all(self, entries: Iterable[int]) -> None:
        """Note that entries are done, as far as they haven't failed."""
        self._ledger.settle_all(entries)

    def fail(self, entry: int, exc: BaseException) -> None:
        """Note that an entry has failed."""
        self._ledger.fail(entry, Reason.of(exc))

    def covers(self, mutes: int) -> bool:
        """Return whether a binding hasn't been muted since."""
        return mutes == self._mutes


def _nothing() -> None:
    return None


def _fit(text: str) -> str:
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "backslashreplace").decode()
