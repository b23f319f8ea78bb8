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
    tally.note_saved([Row(7, AT, None, b""), Row(9, AT, None, b"")], by_key=False)
    assert (tally.delivered, tally.last_id, tally.attempts, tally.held_since) == (2, 9, 0, None)


def test_rates():
    """They are those since the last time, for relays by key as well."""
    tally = Tally()
    tally.note_rates(100.0)
    assert (tally.rate, tally.key_rates) == (None, {})
    rows = [Row(n, AT, key, b"") for n, key in enumerate([b"low", b"low", None, b"high"], 1)]
    tally.note_saved(rows, by_key=True)
    tally.note_rates(102.0)
    assert (tally.rate, tally.key_rates) == (2.0, {b"low": 1.0, None: 0.5, b"high": 0.5})
    tally.note_saved(rows[:1], by_key=True)
    tally.note_rates(104.0)
    assert (tally.rate, tally.key_rates) == (0.5, {b"low": 0.5})
    tally.note_rates(105.0)
    assert (tally.rate, tally.key_rates) == (0.0, {})


def test_what_is_passed():
    """Once somebody has moved the position, nothing is held up, and nothing more is delivered."""
    tally = Tally()
    tally.note_held()
    tally.note_free()
    assert (tally.delivered, tally.last_id, tally.attempts, tally.held_since) == (0, None, 0, None)
    assert tally.note_held()
