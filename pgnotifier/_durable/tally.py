"""The tally of one durable subscription: what is delivered, and what is known of the rest."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgnotifier._delivery.portions import Row

if TYPE_CHECKING:
    from pgnotifier._durable.rows import Figures


class Tally:
    """What `status()` says of a subscription. The source's thread owns it, any thread may read it.

    Attributes:
        behind_since: When the oldest undelivered entry was published; None if there is none.
        last_id: The latest entry that was delivered by this process.
        held_since: Since when an entry that fails has held it up.
        figures: What the database has said last.
        delivered: How many entries are settled since the start.
        rate: How many entries a second were settled lately; None if that isn't known yet.
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
        self.attempts = 0

    def note_saved(self, rows: Sequence[Row]) -> None:
        """Note that the position has moved past some entries."""
        self.last_id = rows[-1].id
        self.delivered += len(rows)
        self.note_free()

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
