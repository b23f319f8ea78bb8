"""Reading ahead: a query of its own reads what `advance()` would read, or leaves it to that."""

import psycopg
import pytest

from pgnotifier._durable.ahead import read_ahead
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.rows import Place
from pgnotifier._log import positions
from pgnotifier.errors import NotListeningError

LIMIT = 1000


@pytest.fixture
def sub(log):
    """Return the number of a subscription to "orders", which starts now."""
    return positions.subscribe(log.connection, "sub", "orders")


@pytest.fixture
def session(log, sub):
    """Yield the session of a reader that holds the subscription."""
    with log.connect() as connection:
        session = LogSession(connection)
        session.prepare()
        assert session.lock(sub)
        yield session


@pytest.fixture
def begin(session, sub):
    """Return a function that returns the position's number, and the place where it begins."""

    def begin():
        window = session.advance(sub, None, None, 1, keep=True, is_held=True).window
        return window.n, Place(window.done)

    return begin


def publish_many(log, count):
    """Publish that many entries in as many transactions; they have no ticks."""
    log.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP"
        " PERFORM pgnotifier.publish('orders', i::text, i::text); COMMIT; END LOOP; END $$"
    )
    log.execute("UPDATE pgnotifier.log SET snap = NULL")


def tick(log):
    """Publish an entry at which a window may end."""
    log.execute(
        "INSERT INTO pgnotifier.log (snap, channel, payload)"
        " VALUES (pgnotifier.snapshot(), 'orders', '0')"
    )


def numbers(fetched):
    """Return the payloads that were read."""
    return [int(row.payload) for row in fetched.rows]


@pytest.mark.parametrize("limit", [1, 5, 6, LIMIT])
@pytest.mark.parametrize("count", [0, 1, 6, 600], ids=lambda count: f"{count}_more")
def test_it_reads_the_same(log, session, sub, begin, count, limit):
    """It reads what `advance()` does: the same entries of the same window, whatever is open."""
    with log.connect(autocommit=False) as late, log.connect(autocommit=False) as open_still:
        late.execute("SELECT pgnotifier.publish('orders', '-1')")
        open_still.execute("SELECT pgnotifier.publish('orders', '-2')")
        log.publish("other", 0)
        known, place = begin()
        publish_many(log, count)
        late.commit()
        log.execute("UPDATE pgnotifier.log SET snap = NULL")
        expected = session.advance(sub, known, place, limit, keep=True, is_held=True)
        assert numbers(expected) == [-1, *range(1, count + 1)][:limit]
        if count < 4 * limit - 4:
            assert read_ahead(session, sub, known, place, limit) == expected
        middle = Place(expected.window.done, expected.window.target, expected.rows[-1].id)
        expected = session.advance(sub, known, middle, LIMIT, keep=True, is_held=True)
        found = read_ahead(session, sub, known, middle, LIMIT)
        assert found.rows == expected.rows
        assert found.is_rest
        assert found.window == expected.window._replace(is_now=False)


def test_windows_that_end_at_ticks(log, session, sub, begin):
    """It goes from window to window, and reads each entry once, in order."""
    known, place = begin()
    publish_many(log, 3)
    for _ in range(5):
        tick(log)
        log.publish("orders", 7)
    ids = [one for (one,) in log.execute("SELECT id FROM pgnotifier.log ORDER BY id")]
    found, windows = [], 0
    while True:
        fetched = read_ahead(session, sub, known, place, LIMIT)
        windows += 1
        found += [row.id for row in fetched.rows]
        assert fetched.is_rest
        if fetched.window.is_now:
            break
        place = Place(fetched.window.target)
    assert found == ids
    assert windows > 2


def test_long_windows(log, session, sub, begin):
    """It leaves a window with more than four times the limit to `advance()`."""
    known, place = begin()
    publish_many(log, 40)
    assert numbers(read_ahead(session, sub, known, place, 10)) == [*range(1, 11)]
    log.publish("other", 0)
    assert read_ahead(session, sub, known, place, 10) is None
    assert len(read_ahead(session, sub, known, place, 11).rows) == 11


def test_a_transaction_that_was_open_for_long(log, session, sub, begin):
    """It reads past one that goes on, and leaves one that has ended to `advance()`."""
    with log.connect(autocommit=False) as late:
        late.execute("SELECT pgnotifier.publish('orders', '-1')")
        log.execute(
            "DO $$ BEGIN FOR i IN 1..1500 LOOP"
            " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )
        window = session.advance(sub, *begin(), 1, keep=True, is_held=True).window
        known, place = window.n, Place(window.target)
        publish_many(log, 3)
        assert numbers(read_ahead(session, sub, known, place, LIMIT)) == [1, 2, 3]
        late.commit()
        assert read_ahead(session, sub, known, place, LIMIT) is None
        found = session.advance(sub, known, place, LIMIT, keep=True, is_held=True)
        assert numbers(found) == [-1, 1, 2, 3]


@pytest.mark.slow
def test_large_payloads(log, session, sub, begin):
    """What has over 16 MiB together is read in several steps."""
    known, place = begin()
    for number in range(3):
        log.publish("orders", f"{number:<9000000}")
    log.execute("UPDATE pgnotifier.log SET snap = NULL")
    fetched = read_ahead(session, sub, known, place, LIMIT)
    assert (numbers(fetched), fetched.is_rest) == ([0, 1], False)
    rest = Place(place.done, fetched.window.target, fetched.rows[-1].id)
    fetched = read_ahead(session, sub, known, rest, LIMIT)
    assert (numbers(fetched), fetched.is_rest) == ([2], True)


def test_a_position_that_was_moved(log, session, sub, begin):
    """It reads nothing if the position is another one, was copied, or is gone."""
    known, place = begin()
    publish_many(log, 3)
    assert read_ahead(session, sub, known + 1, place, LIMIT) is None
    log.execute("UPDATE pgnotifier.position SET mark = '5'")
    assert read_ahead(session, sub, known, place, LIMIT) is None
    log.execute("SELECT pgnotifier.seek('sub', 'orders', 'oldest')")
    assert read_ahead(session, sub, known, place, LIMIT) is None
    log.execute("DELETE FROM pgnotifier.subscription")
    assert read_ahead(session, sub, known, place, LIMIT) is None


def test_another_session_or_log(session, sub, begin):
    """It notices a pooler that has given the session to others, and a log that was replaced."""
    known, place = begin()
    started, database, schema = session.run
    session.run = started, database, schema + 1
    with pytest.raises(psycopg.OperationalError, match="replaced"):
        read_ahead(session, sub, known, place, LIMIT)
    session.server_pid += 1
    with pytest.raises(NotListeningError, match="pooler"):
        read_ahead(session, sub, known, place, LIMIT)


def test_it_is_prepared(log, session, sub, begin):
    """The server plans the query once, and the plan doesn't read a whole slot."""
    known, place = begin()
    for _ in range(3):
        publish_many(log, 1)
        assert read_ahead(session, sub, known, place, LIMIT) is not None
    execute = session.connection.execute
    ((name, types, plans),) = execute(
        "SELECT name, parameter_types::text[], generic_plans FROM pg_prepared_statements"
        " WHERE statement LIKE '%e AS MATERIALIZED%'"
    )
    assert plans == 3
    arguments = ", ".join(f"NULL::{one}" for one in types)
    plan = "\n".join(line for (line,) in execute(f'EXPLAIN EXECUTE "{name}"({arguments})'))
    assert "Seq Scan on log" not in plan
    assert "Bitmap" not in plan
    assert plan.count("using log_0_xid_id_idx") == 3
