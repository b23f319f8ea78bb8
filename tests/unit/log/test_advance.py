"""What a reader does in one step: it reads what take() and read() do, and may save a position."""

import threading

import pytest
from log_position import Position

from pgnotifier._durable.log_session import LOCKS, LogSession
from pgnotifier._durable.rows import Place
from pgnotifier._log import positions

UNLOCK = "SELECT pg_advisory_unlock(%s, %s)"


@pytest.fixture
def sub(log):
    """Return the number of a subscription to "orders", which starts now."""
    return positions.subscribe(log.connection, "sub", "orders")


@pytest.fixture
def session(log):
    """Yield the session of a reader."""
    with log.connect() as connection:
        yield LogSession(connection)


def advance(session, sub, limit=1000, *, known=None, ahead=None, keep=True, **more):
    """Return the payloads that are read, and what else there is to know."""
    place = None if ahead is None else Place(ahead)
    fetched = session.advance(sub, known, place, limit, keep=keep, **more)
    return [int(row.payload) for row in fetched.rows], fetched


def read(session, sub, limit=1000):
    """Return the payloads that are read step by step."""
    position = Position(sub)
    with session.connection.transaction():
        reading = position.read(session.connection, limit)
    return [int(one.payload) for one in reading.entries]


def publish_many(log, count):
    """Publish that many entries in as many transactions."""
    log.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP"
        " PERFORM pgnotifier.publish('orders', i::text); COMMIT; END LOOP; END $$"
    )


def use_up(log, count):
    """Begin and end that many transactions."""
    log.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP"
        " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    )


@pytest.mark.parametrize("limit", [1, 5, 6, 1000])
@pytest.mark.parametrize("count", [0, 1, 6, 499, 600], ids=lambda count: f"{count}_more")
def test_it_reads_the_same(log, session, sub, count, limit):
    """Whether there is little or much, it is what take() and read() find; not what isn't ended."""
    with log.connect(autocommit=False) as late, log.connect(autocommit=False) as open_still:
        late.execute("SELECT pgnotifier.publish('orders', '-1')")
        open_still.execute("SELECT pgnotifier.publish('orders', '-2')")
        log.publish("other", 0)
        publish_many(log, count)
        late.commit()
        log.execute("UPDATE pgnotifier.log SET snap = NULL")  # a tick may end take()'s window
        found, fetched = advance(session, sub, limit)
        assert found == read(session, sub, limit) == [-1, *range(1, count + 1)][:limit]
        assert fetched.is_rest == (count < limit)
        assert (fetched.window.n,) == log.execute("SELECT max(n) FROM pgnotifier.position")[0]
        assert fetched.is_held


@pytest.mark.parametrize("limit", [1, 700, 1000])
def test_many_in_one_transaction(log, session, sub, limit):
    """A window of few transactions isn't read as one range, whatever others have published."""
    log.execute(
        "SELECT pgnotifier.publish(CASE i % 2 WHEN 0 THEN 'orders' ELSE 'other' END, i::text)"
        " FROM generate_series(0, 1399) AS i"
    )
    log.execute("UPDATE pgnotifier.log SET snap = NULL")  # a tick may end the window
    found, fetched = advance(session, sub, limit)
    assert found == read(session, sub, limit) == [*range(0, 1400, 2)][:limit]
    assert fetched.is_rest == (limit > 700)


def test_a_transaction_that_was_open_for_long(log, session, sub):
    """What it has published is read once it has ended, however many have begun since; once only."""
    with log.connect(autocommit=False) as late:
        late.execute("SELECT pgnotifier.publish('orders', '1')")
        use_up(log, 1500)
        log.publish("orders", 2)
        found, fetched = advance(session, sub)
        assert found == [2]
        position = fetched.window.n, fetched.window.target
        log.publish("orders", 3)
        found, fetched = advance(session, sub, known=position[0], ahead=position[1])
        assert found == [3]
        late.commit()
        found, fetched = advance(session, sub, known=position[0], ahead=fetched.window.target)
        assert found == [1]


@pytest.mark.slow
def test_large_payloads(log, session, sub):
    """What has over 16 MiB together is read in several steps."""
    for number in range(3):
        log.publish("orders", f"{number:<9000000}")
    found, fetched = advance(session, sub)
    assert found == [0, 1]
    assert not fetched.is_rest


def test_only_one_holds_it(log, session, sub):
    """A subscription that another session gives back at this very moment is free, or it isn't."""
    stopping, held = threading.Event(), []

    def hold_often():
        with log.connect() as connection:
            other = LogSession(connection)
            while not stopping.is_set():
                if other.lock(sub):
                    other.unlock(sub)

    thread = threading.Thread(target=hold_often)
    thread.start()
    try:
        for _ in range(1000):
            if session.lock(sub):
                held += session.connection.execute(UNLOCK, (LOCKS, sub)).fetchone()
    finally:
        stopping.set()
        thread.join()
    assert held
    assert all(held), f"{held.count(False)} of {len(held)} times without the lock"


def test_a_look_writes_nothing(log, session, sub):
    """It needs no transaction number: a hundred subscriptions that are idle cost no writing."""
    log.publish("orders", 1)

    def next_number():
        ((number,),) = log.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        return number

    before = next_number()
    for _ in range(3):
        _, fetched = advance(session, sub)
        advance(session, sub, known=fetched.window.n, ahead=fetched.window.target)
    assert next_number() == before


def test_what_has_nothing_to_read_is_free(log, session, sub):
    """If there is nothing, others may have it at once; otherwise it is held until unlocked."""

    def is_free():
        with log.connect() as other:
            ((got,),) = other.execute("SELECT pgnotifier.hold(%s)", (sub,))
            other.execute("SELECT pg_advisory_unlock_all()")  # closing does it a moment later
            return got

    _, fetched = advance(session, sub)
    place = fetched.window.n, Place(fetched.window.target)
    assert fetched.is_held
    assert not is_free()
    fetched = session.advance(sub, *place, 10, keep=False, is_held=True)
    assert not fetched.is_held
    assert is_free()
    log.publish("orders", 1)
    assert session.advance(sub, *place, 10, keep=False).is_held
    assert session.advance(sub, *place, 10, keep=False, is_held=True).is_held
    session.unlock(sub)
    assert is_free(), "it was locked more than once"


def test_subscriptions_that_cannot_be_read(log, session, sub, eventually):
    """What another reader has, what is gone, and a position that was copied differ."""
    with log.connect() as other:
        assert LogSession(other).lock(sub)
        assert session.advance(sub, None, None, 10, keep=False) is None
    # The server gives the lock of a session back a moment after the connection was closed.
    eventually(lambda: session.lock(sub))
    session.unlock(sub)
    _, fetched = advance(session, sub)
    assert fetched.window.state == "taken"
    log.execute("UPDATE pgnotifier.position SET mark = '5'")
    assert session.advance(sub, None, None, 10, keep=False, is_held=True).window.state == "foreign"
    log.execute("DELETE FROM pgnotifier.subscription")
    assert session.advance(sub, None, None, 10, keep=False, is_held=True).window.state == "gone"
    ((locks,),) = log.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s",
        LOCKS,
        sub,
    )
    assert locks == 1


def saved(log):
    """Return the newest position."""
    query = "SELECT done::text, target::text, last_id FROM pgnotifier.positions"
    return log.execute(query)[0]


@pytest.mark.parametrize("count", [5, 600], ids=["few", "many"])
def test_reading_ahead(log, session, sub, count):
    """It reads on behind entries that are under way, and saves nothing; so does the next window."""
    publish_many(log, count)
    log.execute("UPDATE pgnotifier.log SET snap = NULL")
    before = saved(log)
    found, fetched = advance(session, sub, 2)
    number, window = fetched.window.n, fetched.window
    middle = Place(window.done, window.target, fetched.rows[-1].id)
    ahead = session.advance(sub, number, middle, 9, keep=True, is_held=True)
    assert (ahead.window.done, ahead.window.target) == (window.done, window.target)
    assert [int(row.payload) for row in ahead.rows] == [*range(3, count + 1)][:9]
    log.publish("orders", 0)
    after = session.advance(sub, number, Place(window.target), 9, keep=True, is_held=True)
    assert [int(row.payload) for row in after.rows] == [0]
    assert after.window.done == window.target
    assert (found, saved(log)) == ([1, 2], before)


def test_saving_and_reading_in_one_step(log, session, sub):
    """The position moves, and what comes after it is read as if it had moved before."""
    publish_many(log, 3)
    found, fetched = advance(session, sub, 2)
    number, window = fetched.window.n, fetched.window
    place = Place(window.done, window.target, fetched.rows[-1].id)
    step = session.advance(sub, number, place, 9, keep=True, is_held=True, settled=place)
    assert saved(log) == (place.done, place.target, place.last_id)
    assert step.window.n > number
    assert [int(row.payload) for row in step.rows] == [3]
    assert found == [1, 2]
    end = Place(window.target)
    step = session.advance(sub, step.window.n, end, 9, keep=False, is_held=True, settled=end)
    assert (step.rows, step.is_held) == ([], True), "others would read from where it was before"
    assert saved(log) == (end.done, None, 0)


def test_saving_a_position_that_was_moved(log, session, sub):
    """Nothing is saved, and the caller gets to know, if somebody else has moved it, or does so."""
    publish_many(log, 3)
    _, fetched = advance(session, sub, 2)
    number, place = fetched.window.n, Place(fetched.window.target)

    def save():
        step = session.advance(sub, number, place, 9, keep=True, is_held=True, settled=place)
        return step.window.state, session.save(sub, number, "orders", place)

    with log.connect(autocommit=False) as other:
        other.execute("SELECT pgnotifier.seek('sub', 'orders', 'oldest')")
        assert save() == ("moved", None)
    before = saved(log)
    assert save() == ("moved", None)
    assert saved(log) == before
    log.execute("UPDATE pgnotifier.position SET mark = '5'")
    assert save()[1] is None
    log.execute("DELETE FROM pgnotifier.subscription")
    assert save() == ("gone", None)


def test_saving_beside_those_who_refer_to_it(log, session, sub):
    """A transaction that has put something aside for the subscription isn't in the way."""
    publish_many(log, 1)
    _, fetched = advance(session, sub)
    with log.connect(autocommit=False) as other:
        other.execute(
            "SELECT pgnotifier.fail(%s, 1, now(), 'orders', NULL, '1', 'no', NULL, 9, false)",
            (sub,),
        )
        place = Place(fetched.window.target)
        assert session.save(sub, fetched.window.n, "orders", place) is not None


def test_waiting_for_the_disk(log, session, sub):
    """A position that is saved in the same step waits for the disk if it is to."""
    session.connection.execute("SET synchronous_commit TO off")
    _, fetched = advance(session, sub)
    place, number = Place(fetched.window.target), fetched.window.n
    for _ in range(3):
        ((before,),) = log.execute("SELECT pg_current_wal_insert_lsn()")
        step = session.advance(
            sub, number, place, 9, keep=True, is_held=True, settled=place, waits=True
        )
        number = step.window.n
        assert log.execute("SELECT pg_current_wal_flush_lsn() > %s", before) == [(True,)]
    assert session.connection.execute("SHOW synchronous_commit").fetchone() == ("off",)


def test_it_is_prepared(session, sub, log):
    """The server parses the query once."""
    query = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%advance(%'"
    for number in range(3):
        log.publish("orders", number)
        assert advance(session, sub)[0] == list(range(number + 1))
        assert session.connection.execute(query).fetchone() == (1,)
