"""Tallies: what `status()` says of a subscription."""

from datetime import UTC, datetime

from pgnotifier._delivery.portions import Row
from pgnotifier._durable.tally import Tally

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_what_is_saved():
    """It counts what is delivered, and knows the latest entry; nothing is held up any more."""
    tally = Tally()
    assert tally.note_held()
    assert not tally.note_held()
    assert tally.attempts == 2
    assert tally.held_since is not None
    tally.note_saved([Row(7, AT, None, b""), Row(9, AT, None, b"")])
    assert (tally.delivered, tally.last_id, tally.attempts, tally.held_since) == (2, 9, 0, None)


def test_what_is_passed():
    """Once somebody has moved the position, nothing is held up, and nothing more is delivered."""
    tally = Tally()
    tally.note_held()
    tally.note_free()
    assert (tally.delivered, tally.last_id, tally.attempts, tally.held_since) == (0, None, 0, None)
    assert tally.note_held()
