"""Reading: what comes next is read once, ahead of its turn, and dropped if that never comes."""

from datetime import UTC, datetime

import pytest
from deliveries import Fake, bind

from pgnotifier._connection.encoding import find_encoding
from pgnotifier._delivery.portions import Row
from pgnotifier._durable.bookmark import BATCH
from pgnotifier._durable.reading import AT_ONCE, Reading, Sizes
from pgnotifier._durable.rows import Fetched, Place, Window

UTF8 = find_encoding("UTF8")
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Session:
    """A session on a log of so many entries, in windows of seven; it notes what is done with it."""

    def __init__(self, count):
        self.count = count
        self.position = 1
        self.steps = []
        self.is_long = False
        self.asked = 0

    def advance(self, _sub, known, ahead, limit, *, settled=None, **_):
        """Read on from a place, or from the position; save one first if it is given."""
        self.steps.append((ahead, settled))
        state = "taken"
        if settled is not None:
            state = "taken" if known == self.position else "moved"
            self.position += state == "taken"
        begin, last = (int(ahead.done), ahead.last_id) if ahead else (0, 0)
        end = min(begin + 7, self.count)
        ids = range(max(begin, last) + 1, end + 1)
        rows = [Row(one, AT, None, b"") for one in ids[:limit]]
        window = Window(
            state, self.position, str(begin), str(end), last, end == self.count, 0, self.count
        )
        return Fetched(window, rows, len(ids) <= limit, is_held=True)

    def read_ahead(self, sub, known, ahead, limit):
        """Read on from a place, unless it is in a window that is too long."""
        self.asked += 1
        return None if self.is_long else self.advance(sub, known, ahead, limit)

    def save(self, _sub, known, _channel, place, _failed, *, waits):
        """Save a position."""
        self.steps.append((None, place))
        self.position += known == self.position
        return self.position if known == self.position - 1 else None


@pytest.fixture
def read():
    """Return a function that begins to read so many entries, and one that launches the next."""

    def read(count, *, at_once=5, batch=3):
        reading, session = Reading(Sizes(batch, 0, at_once), Session.read_ahead), Session(count)
        reading.advance(session, 1, is_single=False, keep=True, is_held=False)
        reading.bookmark.move(session.position)
        reading.bookmark.unsynced = 0
        reading.keep(reading.fetched)
        reading.fetched = None
        return reading, session

    return read


def launch(reading, attempts=None):
    """Hand over the next entries; return their flight and their numbers."""
    handed = []
    flight = reading.launch(bind(Fake()), handed.extend, lambda: None, UTF8, attempts)
    return flight, [one.id for one in handed]


def save(reading, session, flight):
    """Save the position after a flight, and look for more unless there is something."""
    return reading.save_and_look(session, 1, "a", flight.end, len(flight.rows), (), waits=False)


def test_reading_ahead(read):
    """Batches come from what was read at once; more is read while the last of that is under way."""
    reading, session = read(10)
    first, ids = launch(reading)
    assert ids == [1, 2, 3]
    reading.read_ahead(session, 1, first)
    assert len(session.steps) == 1, "there are two entries already"
    assert save(reading, session, first)
    assert session.steps[1:] == [(None, Place("0", "7", 3))]
    second, ids = launch(reading)
    assert ids == [4, 5]
    for _ in range(2):
        reading.read_ahead(session, 1, second)
    assert session.steps[2:] == [(Place("0", "7", 5), None)]
    assert save(reading, session, second)
    third, ids = launch(reading)
    assert (ids, third.end) == ([6, 7], Place("7"))
    reading.read_ahead(session, 1, third)
    assert save(reading, session, third)
    fourth, ids = launch(reading)
    assert ids == [8, 9, 10]
    reading.read_ahead(session, 1, fourth)
    assert not reading.has_next, "nothing is known to follow"
    assert not fourth.is_followed


def test_saving_and_looking(read):
    """If nothing was read ahead, the position is saved and what comes next is read in one step."""
    reading, session = read(9)
    flight, _ = launch(reading)
    reading.drop()
    assert save(reading, session, flight)
    assert session.steps[1:] == [(flight.end, flight.end)]
    assert [row.id for row in reading.fetched.rows] == [4, 5, 6, 7]
    assert reading.fetched.window.n == reading.bookmark.known == 2


@pytest.mark.parametrize("is_ahead", [True, False])
def test_a_position_that_was_moved(read, is_ahead):
    """What was read ahead is dropped, whichever way the position was to be saved."""
    reading, session = read(9)
    flight, _ = launch(reading)
    if not is_ahead:
        reading.drop()
    session.position = 7
    assert not save(reading, session, flight)
    assert not reading.has_next
    assert reading.bookmark.known is None


def test_what_was_read_ahead_elsewhere(read):
    """If the position has been moved when more is read ahead, that is dropped."""
    reading, session = read(9)
    launch(reading)
    flight, _ = launch(reading)
    session.position = 7
    reading.read_ahead(session, 1, flight)
    assert not reading.has_next


def test_a_long_window(read):
    """What can't be read ahead by its own query is read by the other one, to the window's end."""
    reading, session = read(10, at_once=3)
    session.is_long = True
    for read_after in ([3], [3, 6], [3, 6, 0]):
        flight, _ = launch(reading)
        reading.read_ahead(session, 1, flight)
        places = [place for place, settled in session.steps if place and not settled]
        assert [place.last_id for place in places] == read_after
        assert save(reading, session, flight)
    assert session.asked == 2, "once for each window"


def test_one_at_a_time(read):
    """An entry that may hold up others is handed over alone, and nothing is kept beside it."""
    reading, _ = read(9)
    flight, ids = launch(reading, attempts=2)
    assert ids == [1]
    assert flight.rows[0].attempts == 2
    assert not reading.has_next


def test_sizes():
    """A dispatcher with larger batches has more read at a time."""
    assert Sizes.of(Fake()) == Sizes(BATCH, at_once=AT_ONCE)
    large = Fake()
    large.batch_size = 5000
    assert Sizes.of(large) == Sizes(5000, at_once=5000)
