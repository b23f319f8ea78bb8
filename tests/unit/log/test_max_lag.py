"""What a subscription may keep is limited, and what is dropped for that is noted."""

import threading
from datetime import timedelta

import pytest
from waiting import eventually

from pgnotifier.durable import positions


def limit(log, position, entries=None, size=None, age=None):
    """Limit how far a subscription may be behind."""
    log.execute(
        "SELECT pgnotifier.limit_lag(%s, %s, %s, %s::interval)", position.sub, entries, size, age
    )


def take_gaps(log, position):
    """Return what was dropped: the ids of the first and the last, how many, and whether exactly."""
    return log.execute(
        "SELECT from_id, to_id, entries, is_exact FROM pgnotifier.take_gaps(%s)", position.sub
    )


def read_part(log, position, count):
    """Read some entries as a reader does, save the position after them, and return them."""
    *entries, window = log.execute(
        "SELECT id, payload, n, done, target"
        " FROM pgnotifier.advance(pg_backend_pid(), %s, NULL, NULL, %s, true)",
        position.sub,
        count,
    )
    move = "SELECT pgnotifier.move(%s, %s, %s, %s, %s)"
    assert log.execute(move, position.sub, *window[2:], entries[-1][0])[0][0]
    return [payload.decode() for _, payload, *_ in entries]


def begin(other, query, *args):
    """Have another session run a query that waits for a lock, and return its thread."""
    thread = threading.Thread(target=lambda: other.execute(query, args))
    thread.start()
    return thread


def waits_for_a_lock(log, other):
    """Return whether another session waits for a lock."""
    query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    return log.execute(query, other.info.backend_pid)[0][0]


def publish_each(log, *payloads, channel="orders"):
    """Publish each one in a transaction of its own."""
    for one in payloads:
        log.publish(channel, one)


def test_entries(log):
    """Of what was published, the last entries are kept, and the others are noted."""
    position = log.subscribe()
    limit(log, position, entries=4)
    publish_each(log, *range(10))
    log.reclaim()
    assert take_gaps(log, position) == [(1, 6, 6, True)]
    assert log.read_all(position) == ["6", "7", "8", "9"]


def test_less_than_the_limit_is_kept(log):
    """A subscription that isn't further behind than it may be keeps everything."""
    position = log.subscribe()
    limit(log, position, entries=10, size=1 << 30, age="1 hour")
    publish_each(log, *range(10))
    before = log.count("position")
    log.reclaim()
    assert log.count("position") == before
    assert take_gaps(log, position) == []
    assert log.read_all(position) == [str(n) for n in range(10)]


def test_within_a_transaction(log):
    """A transaction's entries are dropped only as far as the limit demands."""
    position = log.subscribe()
    limit(log, position, entries=4)
    publish_each(log, "x")
    log.publish("orders", *range(10))
    log.reclaim()
    assert take_gaps(log, position) == [(1, 7, 7, True)]
    assert log.read_all(position) == ["6", "7", "8", "9"]


def test_half_way_through_a_window(log):
    """What was delivered of a window is neither dropped nor noted."""
    position = log.subscribe()
    publish_each(log, *range(10))
    assert log.read(position, 3) == ["0", "1", "2"]
    limit(log, position, entries=4)
    log.reclaim()
    assert take_gaps(log, position) == [(4, 6, 3, True)]
    assert log.read_all(position) == ["6", "7", "8", "9"]


def test_age(log):
    """What is older than the limit is dropped, also of a transaction that took longer."""
    position = log.subscribe()
    limit(log, position, age="1 hour")
    publish_each(log, *range(5))
    log.publish("orders", 5, 6)
    publish_each(log, *range(7, 10))
    log.execute("UPDATE pgnotifier.log SET at = at - interval '2 hours' WHERE id <= 6")
    log.reclaim()
    assert take_gaps(log, position) == [(1, 6, 6, True)]
    assert log.read_all(position) == ["6", "7", "8", "9"]


def test_everything_is_too_old(log):
    """If everything is too old, everything is dropped, and what comes later is delivered."""
    position = log.subscribe()
    limit(log, position, age="1 hour")
    publish_each(log, *range(5))
    log.execute("UPDATE pgnotifier.log SET at = at - interval '2 hours'")
    log.reclaim()
    assert take_gaps(log, position) == [(1, 5, 5, True)]
    log.publish("orders", "new")
    assert log.read_all(position) == ["new"]


@pytest.mark.slow
def test_bytes(log):
    """The space that it keeps is limited, though nobody runs it, to about a slot more."""
    position = log.subscribe()
    limit(log, position, size=2_000_000)
    sizes = []
    for _ in range(40):
        log.execute(
            "SELECT pgnotifier.publish('orders', repeat(md5(n::text), 60))"
            " FROM generate_series(1, 100) AS n"
        )
        log.reclaim(slot_bytes=200_000)
        sizes.append(sum(one.kept_bytes for one in positions(log.connection)))
    assert max(sizes) < 2_800_000
    assert sizes[-1] > 1_000_000
    ((first, last, count, is_exact),) = take_gaps(log, position)
    assert (first, is_exact) == (1, True)
    assert count == last
    assert len(log.read_all(position)) == 4000 - count


def test_the_limit_holds_though_nobody_runs_it(log):
    """Whoever reads another subscription gives the space back."""
    forgotten, other = log.subscribe("forgotten"), log.subscribe("other")
    limit(log, forgotten, entries=1)
    for n in range(4):
        log.publish("orders", n)
        log.read_all(other)
        log.reclaim()
    log.reclaim()
    assert log.count() <= 2
    assert take_gaps(log, forgotten) == [(1, 3, 3, True)]


def test_entries_of_other_channels(log):
    """If nothing of its channel was dropped, there is nothing to report."""
    position = log.subscribe()
    limit(log, position, entries=2)
    publish_each(log, *range(5), channel="other")
    log.publish("orders", "a")
    log.reclaim()
    assert take_gaps(log, position) == []
    assert log.read_all(position) == ["a"]


def test_an_open_transaction_loses_nothing(log):
    """What a transaction publishes that is open, or prepared, at that moment is delivered."""
    position = log.subscribe()
    limit(log, position, entries=1)
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        publish_each(log, *range(5))
        log.reclaim()
        assert take_gaps(log, position) == [(2, 5, 4, True)]
        publisher.commit()
    assert sorted(log.read_all(position)) == ["4", "late"]


def test_an_open_transaction_keeps_its_slot(log):
    """What was published by a transaction that was open then isn't truncated before it is read."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        publish_each(log, *range(4))
        log.reclaim()
        publish_each(log, 4)  # into another slot
        limit(log, position, entries=1)
        assert log.reclaim() == (0, 1)
        assert take_gaps(log, position) == [(2, 5, 4, True)]
        publisher.commit()
    log.reclaim()
    assert sorted(log.read_all(position)) == ["4", "late"]


def test_a_transaction_that_ends_meanwhile(log):
    """What was open when the dropped entries were counted isn't dropped if it ends just then."""
    position = log.subscribe()
    limit(log, position, entries=1)
    with log.connect(autocommit=False) as publisher, log.connect() as other:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        publish_each(log, *range(5))
        with log.connect(autocommit=False) as blocker:
            blocker.execute("LOCK TABLE pgnotifier.gap IN SHARE MODE")
            thread = begin(other, "SELECT pgnotifier.drop_behind(%s)", position.sub)
            eventually(lambda: waits_for_a_lock(log, other))
            publisher.commit()
        thread.join()
    assert take_gaps(log, position) == [(2, 5, 4, True)]
    assert sorted(log.read_all(position)) == ["4", "late"]


def test_a_transaction_that_ends_just_before(log):
    """What was open at the position, and isn't when the entries are counted, is counted."""
    with log.connect(autocommit=False) as publisher, log.connect() as other:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        log.execute("SELECT pg_current_xact_id()")  # or else it would come after the position
        position = log.subscribe()
        limit(log, position, entries=1)
        publish_each(log, *range(5))
        with log.connect(autocommit=False) as blocker:
            # Reading is possible then, and locking the subscription isn't.
            blocker.execute("LOCK TABLE pgnotifier.subscription IN EXCLUSIVE MODE")
            thread = begin(other, "SELECT pgnotifier.drop_behind(%s)", position.sub)
            eventually(lambda: waits_for_a_lock(log, other))
            publisher.commit()
        thread.join()
    assert take_gaps(log, position) == [(1, 5, 5, True)]
    assert log.read_all(position) == ["4"]


def test_a_transaction_that_ends_within_a_window(log):
    """What was open when a window ended, and is delivered after it, isn't truncated before that."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publish_each(log, 0)
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        publish_each(log, *range(1, 5))
        log.reclaim()
        publish_each(log, *range(5, 11))  # into another slot
        assert read_part(log, position, 4) == ["0", "1", "2", "3"]
        publisher.commit()
    limit(log, position, entries=4)
    log.reclaim()
    assert take_gaps(log, position) == [(6, 8, 3, True)]
    assert log.read_all(position) == ["7", "8", "9", "10", "late"]


def test_a_transaction_that_ends_after_a_window_has_begun(log):
    """A lower number than that of the latest entry of the window that was delivered counts, too."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publish_each(log, 0)
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        publish_each(log, *range(1, 7))
        assert read_part(log, position, 4) == ["0", "1", "2", "3"]
        publisher.commit()
    publish_each(log, *range(7, 17))
    limit(log, position, entries=4)
    log.reclaim()
    assert take_gaps(log, position) == [(2, 14, 10, True)]
    assert log.read_all(position) == ["13", "14", "15", "16"]


def test_what_was_late_counts(log):
    """A late entry that was committed since the position was saved can be dropped, too."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        publish_each(log, *range(3))
        assert log.read_all(position) == ["0", "1", "2"]
        publisher.commit()
    publish_each(log, *range(3, 6))
    limit(log, position, entries=2)
    log.reclaim()
    assert take_gaps(log, position) == [(1, 5, 2, True)]
    assert log.read_all(position) == ["4", "5"]


def test_an_old_transaction_that_publishes_late(log):
    """An entry is kept by its number, though its transaction began before others' entries."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pg_current_xact_id()")
        publish_each(log, *range(5))
        publisher.execute("SELECT pgnotifier.publish('orders', 'new')")
        publisher.commit()
    publish_each(log, 5)
    limit(log, position, entries=3)
    log.reclaim()
    assert take_gaps(log, position) == [(1, 4, 4, True)]
    assert sorted(log.read_all(position)) == ["4", "5", "new"]


def test_gaps_add_up(log):
    """What is dropped in several steps is one gap, until it is taken; then there is another."""
    position = log.subscribe()
    limit(log, position, entries=1)
    for n in range(4):
        log.publish("orders", n)
        log.reclaim()
    assert positions(log.connection)[0].dropped == 3
    assert take_gaps(log, position) == [(1, 3, 3, True)]
    log.publish("orders", 4)
    log.reclaim()
    assert take_gaps(log, position) == [(1, 3, 3, True), (4, 4, 1, True)]
    numbers = [n for (n,) in log.execute("SELECT n FROM pgnotifier.gap")]
    log.execute("SELECT pgnotifier.drop_gaps(%s)", numbers)
    assert take_gaps(log, position) == []


@pytest.mark.slow
def test_many_are_not_counted(log):
    """A hundred thousand entries or more are given as an upper bound, with channels of others."""
    position = log.subscribe()
    limit(log, position, entries=10)
    for _ in range(3):
        log.execute(
            "INSERT INTO pgnotifier.log (channel, payload)"
            " SELECT 'orders', n::text FROM generate_series(1, 50000) AS n"
        )
    log.reclaim()
    assert take_gaps(log, position) == [(1, 149_990, 149_990, False)]
    assert log.read_all(position) == [str(n) for n in range(49_991, 50_001)]


def test_a_reader_that_saves_at_the_same_time(log):
    """A subscription that is locked is left alone until the next look."""
    position = log.subscribe()
    limit(log, position, entries=1)
    publish_each(log, *range(3))
    with log.connect() as other, other.transaction():
        other.execute("SELECT FROM pgnotifier.subscription FOR UPDATE")
        log.reclaim()
    assert take_gaps(log, position) == []
    log.reclaim()
    assert take_gaps(log, position) == [(1, 2, 2, True)]


def test_a_reader_that_has_just_saved(log):
    """A position that was saved meanwhile isn't moved, and its reader can save the next one."""
    position = log.subscribe()
    limit(log, position, entries=1)
    publish_each(log, *range(6))
    with log.connect(autocommit=False) as other:
        with log.connect(autocommit=False) as blocker:
            ((known,),) = log.execute("SELECT n FROM pgnotifier.positions")
            move = "SELECT pgnotifier.move(%s, %s, '1:1:', pg_current_snapshot(), %s)"
            blocker.execute("LOCK TABLE pgnotifier.log_7 IN ACCESS EXCLUSIVE MODE")
            thread = begin(other, "SELECT pgnotifier.drop_behind(%s)", position.sub)
            eventually(lambda: waits_for_a_lock(log, other))  # it knows the position by now
            ((known,),) = log.execute(move, position.sub, known, 1)
        thread.join()
        assert log.execute(move, position.sub, known, 2) != [(None,)]
    assert take_gaps(log, position) == []
    log.reclaim()
    assert take_gaps(log, position) == [(3, 5, 3, True)]


def test_no_limit_any_more(log):
    """A limit can be removed; it is deleted with its subscription."""
    position = log.subscribe()
    limit(log, position, entries=1)
    limit(log, position)
    publish_each(log, *range(3))
    log.reclaim()
    assert log.read_all(position) == ["0", "1", "2"]
    limit(log, position, age="1 day")
    assert positions(log.connection)[0].max_lag.age == timedelta(days=1)
    log.execute("SELECT pgnotifier.forget('sub', 'orders')")
    assert log.count("max_lag") == 0


@pytest.mark.parametrize("arguments", [(0, None, None), (None, -1, None), (None, None, "0")])
def test_impossible_limits(log, arguments):
    """A limit of nothing is refused by the database, too."""
    position = log.subscribe()
    with pytest.raises(Exception, match="max_lag_"):
        limit(log, position, *arguments)
