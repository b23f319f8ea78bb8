"""Flights: entries that are being delivered, and the position after them."""

from datetime import UTC, datetime

import pytest
from deliveries import Fake, bind

from pgnotifier._connection.encoding import find_encoding
from pgnotifier._delivery.portions import Row
from pgnotifier._durable.flight import FLOOD_PAUSE, LAST_RETRY, MANY, launch, retry_pause
from pgnotifier._durable.rows import Place, Window
from pgnotifier.durability import Durability

UTF8 = find_encoding("UTF8")
AT = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = Window("taken", 1, "done", "target", 0, is_now=True, id_hi=0, newest=9)


@pytest.fixture
def fly():
    """Return a function that launches entries, and returns their flight and their items."""

    def fly(*ids, is_rest=True):
        handed = []
        rows = [Row(one, AT, b"key", f"p{one}".encode(), attempts=one) for one in ids]
        flight = launch(
            rows, bind(Fake()), handed.extend, lambda: None, UTF8, WINDOW, is_rest=is_rest
        )
        return flight, handed

    return fly


def test_launching(fly):
    """Each entry becomes an item with its number, key, time and attempt."""
    flight, handed = fly(1, 2)
    one = handed[1].arrival("payload")
    assert (one.id, one.key, one.published_at, one.attempt, one.pid) == (2, "key", AT, 3, 0)
    assert (one.raw, one.payload) == ("p2", "payload")
    assert not flight.has_ended


@pytest.mark.parametrize(
    ("is_rest", "settled", "place"),
    [
        (True, (1, 2, 3), Place("target")),
        (False, (1, 2, 3), Place("done", "target", 3)),
        (True, (1, 2), Place("done", "target", 2)),
        (True, (1, 3), Place("done", "target", 1)),
        (True, (2, 3), None),
    ],
)
def test_the_position_afterwards(fly, is_rest, settled, place):
    """The position moves past what is settled without anything unsettled before it."""
    flight, handed = fly(1, 2, 3, is_rest=is_rest)
    for one in settled:
        handed[0].receipt.settle(one)
    assert flight.place_after(flight.head) == place
    assert [row.id for row in flight.after(flight.head).rows] == [
        one for one in (1, 2, 3) if place is not None and one > (place.last_id or 3)
    ] + ([1, 2, 3] if place is None else [])


def test_pausing_during_a_flood(fly):
    """After many entries there is a pause, unless more are there already; after a few, none is."""
    assert fly(*range(1, MANY + 2))[0].pause == FLOOD_PAUSE
    assert fly(*range(1, MANY + 2), is_rest=False)[0].pause == 0
    assert fly(*range(1, MANY + 1))[0].pause == 0


def test_dropping(fly):
    """A flight has ended once its entries were dropped, and is not done."""
    flight, handed = fly(1, 2)
    handed.clear()
    assert flight.has_ended
    assert not flight.ledger.is_done


def test_failing(fly):
    """An entry that has failed is dead after as many attempts as it may have."""
    flight, handed = fly(1, 2)
    for one in (1, 2):
        handed[0].receipt.fail(one, ValueError(f"no {one}"))
    found = list(flight.failed(flight.head, Durability(max_attempts=3)))
    assert [(row.id, why.error, why.is_dead) for row, why in found] == [
        (1, "ValueError: no 1", False),
        (2, "ValueError: no 2", True),
    ]
    found = list(flight.failed(flight.head, Durability(max_attempts=1, on_failure="stop")))
    assert not any(why.is_dead for _, why in found)


def test_pauses():
    """They double, up to ten minutes."""
    assert [retry_pause(n) for n in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert retry_pause(10) == 512
    assert retry_pause(1000) == LAST_RETRY
