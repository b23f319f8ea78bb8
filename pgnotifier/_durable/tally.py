"""The tally of one durable subscription: what is delivered, and what is known of the rest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgnotifier._delivery.portions import Row

if TYPE_CHECKING:
    from pgnotifier._durable.rows import Figures

MOST_KEYS = 1000
"""For how many keys there are rates: those with the most entries."""


class Tally:
    """What `status()` says of a subscription. The source's thread owns it, any thread may read it.

    Attributes:
        behind_since: When the oldest undelivered entry was published; None if there is none.
        last_id: The latest entry that was delivered by this process.
        held_since: Since when an entry that fails has held it up.
        figures: What the database has said last.
        delivered: How many entries are settled since the start.
        rate: How many entries a second were settled lately; None if that isn't known yet.
        key_rates: The same by key, for a relay, if it isn't 0. The keys are as in the database.
        attempts: How many times the entry that holds it up was tried.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.behind_since: datetime | None = None
        self.last_id: int | None = None
        self.held_since: datetime | None = None
        self.figures: Figures | None = None
        self.delivered = 0
        self.rate: float | None = None
        self.key_rates: Mapping[bytes | None, float] = {}
        self.attempts = 0
        self._counted = 0
        self._counted_at: float | None = None
        self._keys: Counter[bytes | None] = Counter()

    def note_saved(self, rows: Sequence[Row], *, by_key: bool) -> None:
        """Note that the position has moved past some entries.

        Args:
            rows: The entries.
            by_key: Whether to count them by their keys as well.
        """
        self.last_id = rows[-1].id
        self.delivered += len(rows)
        if by_key:
            self._keys.update(row.key for row in rows)
        self.note_free()

    def note_rates(self, now: float) -> None:
        """Work out the rates since the last time, and begin to count again.

        Args:
            now: The time, by `monotonic()`.
        """
        if self._counted_at is not None:
            seconds = now - self._counted_at
            self.rate = (self.delivered - self._counted) / seconds
            most = self._keys.most_common(MOST_KEYS)
            self.key_rates = {key: count / seconds for key, count in most}
        self._counted, self._counted_at = self.delivered, now
        self._keys.clear()

    def note_free(self) -> None:
        """Note that no entry holds it up any more."""
        self.attempts, self.held_since = 0, None

    def note_held(self) -> bool:
        """Note that an entry has failed and holds it up; return whether that is new."""
        self.attempts += 1
        is_new = self.held_since is None
        if is_new:
            self.held_since = datetime.now(UTC)
        return is_new
