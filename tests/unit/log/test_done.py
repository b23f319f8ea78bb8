"""The notes of what has been done: once each, however many try, and space that is given back."""

import secrets
import threading
from datetime import timedelta

import psycopg
import pytest
from psycopg import IsolationLevel

from pgnotifier import durable
from pgnotifier._log import done
from pgnotifier._log.sessions import find_session
from pgnotifier.errors import (
    AlreadyDoneError,
    ArgumentTypeError,
    ConfigurationError,
    LogNotInstalledError,
    LogRefusedError,
)

STRICT = (IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE)


def once(session, id="a"):
    """Return whether it is the first time."""
    return session.execute("SELECT pgnotifier.once(%s)", (id,)).fetchone()[0]


def waits(log):
    """Return whether a session waits for an advisory lock."""
    query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = ("
    return bool(
        log.execute(query + "SELECT oid FROM pg_database WHERE datname = current_database())")
    )


def in_thread(fn, *args):
    """Start a function in a thread; return the thread, and what is to hold its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(fn(*args)))
    thread.start()
    return thread, results


def shorten(log, keep="1 microsecond"):
    """Keep ids for so long."""
    log.execute("UPDATE pgnotifier.done_keep SET keep = %s", keep)


def reclaim(log):
    """Give space back; return how many slots were truncated, and how many were in use."""
    return log.execute("SELECT freed, blocked FROM pgnotifier.reclaim_done()")[0]


def current(log):
    """Return the slot that new ids go to."""
    return log.execute("SELECT pg_sequence_last_value('pgnotifier.done_slot')")[0][0]


def test_the_first_time(log):
    """An id is done by the first transaction that commits, and by no other one."""
    with log.connect() as one:
        with one.transaction(force_rollback=True):
            assert once(one) is True
        assert once(one) is True
        assert once(one) is False
        assert once(one, "b") is True
        with one.transaction():
            with one.transaction(force_rollback=True):
                assert once(one, "c") is True
            assert once(one, "c") is True
            assert once(one, "c") is False
        assert once(one, "c") is False


@pytest.mark.parametrize("commits", [True, False])
def test_another_one_waits(log, eventually, commits):
    """While a transaction is doing it, another one waits, and goes on if the first has not."""
    with log.connect() as one, log.connect() as two:
        with one.transaction(force_rollback=not commits):
            assert once(one) is True
            thread, results = in_thread(once, two)
            eventually(lambda: waits(log))
            assert once(log.connection, "b") is True  # another id doesn't wait
        thread.join(60)
        assert results == [not commits]


def test_one_that_is_killed(log, eventually):
    """If the session of the first one is lost, the next one goes on."""
    with log.connect() as two:
        one = log.connect(autocommit=False)
        assert once(one) is True
        thread, results = in_thread(once, two)
        eventually(lambda: waits(log))
        log.execute("SELECT pg_terminate_backend(%s)", one.info.backend_pid)
        thread.join(60)
        assert results == [True]
        one.close()


@pytest.mark.parametrize("level", STRICT)
@pytest.mark.parametrize("moves", [False, True], ids=["same slot", "next slot"])
def test_what_a_snapshot_does_not_show(log, level, moves):
    """A transaction that doesn't see what was done since it began fails, and can be repeated."""
    with log.connect() as one, log.connect(autocommit=False) as two:
        once(one, "before")
        two.isolation_level = level
        two.execute("SELECT 1 FROM pg_class LIMIT 1").fetchone()
        assert once(one) is True
        if moves:
            log.execute("UPDATE pgnotifier.done_slots SET opened_at = '2020-01-01'")
            reclaim(log)
            assert current(log) == 1
        with pytest.raises(psycopg.errors.SerializationFailure):
            once(two)
        two.rollback()
        assert once(two) is False
        assert once(two, "c") is True
        two.commit()
        assert once(one, "c") is False
        assert log.count("done") == 3


@pytest.mark.parametrize("level", STRICT)
@pytest.mark.parametrize("before", [0, 2], ids=["the first ids", "later"])
def test_other_ids_at_the_same_time(log, level, before):
    """Transactions that do different things don't fail because of each other."""
    for number in range(before):
        once(log.connection, f"before {number}")
    with log.connect(autocommit=False) as one, log.connect(autocommit=False) as two:
        one.isolation_level = two.isolation_level = level
        assert once(one, "a") is True
        assert once(two, "b") is True
        assert once(one, "c") is True
        one.commit()
        two.commit()
        assert once(two, "a") is False
        assert once(two, "d") is True
        two.commit()
    assert log.count("done") == before + 4


@pytest.mark.parametrize("id", ["", "x" * 1025, None])
def test_ids_that_can_not_be(log, id):
    """An id has from 1 to 1,024 bytes."""
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        once(log.connection, id)
    assert once(log.connection, "x" * 1024) is True


def test_slots_take_turns(log):
    """Each slot is truncated once it is old enough, and an id is found wherever it is."""
    once(log.connection, "one")
    shorten(log, "8 days")
    for number in range(1, 3):
        assert reclaim(log) == (0, 0)
        assert current(log) == number - 1
        log.execute(
            "UPDATE pgnotifier.done_slots SET opened_at = opened_at - interval '5 days',"
            " quiet_at = quiet_at - interval '5 days'"
        )
        assert reclaim(log) == (0, 0)
        assert current(log) == number
        assert reclaim(log) == (0, 0)  # notes that nobody uses the former one any more
        assert once(log.connection, "one") is False
        assert once(log.connection, f"in {number}") is True
    log.execute("UPDATE pgnotifier.done_slots SET quiet_at = quiet_at - interval '5 days'")
    assert reclaim(log) == (1, 0)
    assert log.execute("SELECT slot, id FROM pgnotifier.done ORDER BY 1") == [
        (1, "in 1"),
        (2, "in 2"),
    ]
    assert once(log.connection, "one") is True
    assert once(log.connection, "in 1") is False


def test_an_open_transaction_keeps_its_slot(log):
    """A slot counts as old from when no open transaction uses it; other slots aren't kept."""
    shorten(log)
    once(log.connection, "early")
    reclaim(log)
    assert current(log) == 1
    with log.connect(autocommit=False) as one:
        assert once(one, "long") is True  # which looks for it in the first slot, too
        assert reclaim(log) == (0, 0)
        assert current(log) == 2
        assert reclaim(log) == (1, 0)
        for _ in range(5):
            once(log.connection, secrets.token_hex(8))
            reclaim(log)
        assert once(log.connection, "early") is True
        assert log.execute("SELECT quiet_at FROM pgnotifier.done_slots WHERE slot = 1") == [(None,)]
        shorten(log, "1 day")
        one.commit()
    for _ in range(3):
        reclaim(log)
    assert once(log.connection, "long") is False


def test_an_id_at_the_boundary(log, eventually):
    """A transaction that began in one slot and one in the next don't both do it."""
    with log.connect(autocommit=False) as one, log.connect() as two:
        assert once(one) is True
        shorten(log)
        reclaim(log)
        shorten(log, "1 day")
        assert current(log) == 1
        thread, results = in_thread(once, two)
        eventually(lambda: waits(log))
        one.commit()
        thread.join(60)
        assert results == [False]


def test_slots_while_many_insert(log):
    """While slots move on, each id is done by exactly one of several sessions."""
    shorten(log, "1 hour")
    barrier, done_by, stops = threading.Barrier(4), [], threading.Event()

    def work():
        with log.connect() as session:
            barrier.wait(60)
            done_by.extend(n for n in range(300) if once(session, str(n)))

    def move():
        with log.connect() as session:
            while not stops.wait(0.005):
                session.execute("UPDATE pgnotifier.done_slots SET opened_at = '2020-01-01'")
                session.execute("SELECT pgnotifier.reclaim_done()")

    mover = threading.Thread(target=move)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in (mover, *threads):
        one.start()
    for one in threads:
        one.join(120)
    stops.set()
    mover.join(60)
    assert sorted(done_by) == list(range(300))
    assert current(log) == 3  # none could be truncated, so the last one takes all that follow


def test_what_is_in_use(log):
    """Giving space back waits for nobody: a slot that pg_dump reads stays as it is."""
    shorten(log)
    once(log.connection)
    reclaim(log)
    reclaim(log)
    with log.connect(autocommit=False) as dump:
        dump.execute("LOCK TABLE pgnotifier.done IN ACCESS SHARE MODE")
        assert reclaim(log) == (0, 1)
        assert once(log.connection, "b") is True
    assert reclaim(log) == (1, 0)


def test_one_at_a_time(log):
    """While a session gives space back, others don't, and don't wait."""
    shorten(log)
    once(log.connection)
    with log.connect(autocommit=False) as other:
        other.execute("SELECT pgnotifier.reclaim_done()")
        assert reclaim(log) == (0, 0)
        other.rollback()
    assert current(log) == 1


def test_without_ids(log):
    """A slot without ids isn't left: a database where nothing is done once stays as it is."""
    shorten(log)
    for _ in range(5):
        assert reclaim(log) == (0, 0)
    assert current(log) == 0


def test_not_with_an_old_snapshot(log):
    """With another isolation, giving space back does nothing."""
    shorten(log)
    once(log.connection)
    with log.connect() as session:
        session.isolation_level = IsolationLevel.REPEATABLE_READ
        with session.transaction():
            assert done.reclaim_done(find_session(session)) == (0, 0, timedelta(microseconds=1))
    assert current(log) == 0


def test_how_long_ids_are_kept(log):
    """The owner sets it; it is 7 days at first."""
    session = find_session(log.connection)
    assert done.reclaim_done(session).keep == timedelta(days=7)
    assert durable.keep_done(log.connection, timedelta(days=7)) is False
    assert durable.keep_done(log.connection, timedelta(days=14)) is True
    assert done.reclaim_done(session).keep == timedelta(days=14)
    with pytest.raises(ArgumentTypeError, match="timedelta"):
        durable.keep_done(log.connection, 7)
    with pytest.raises(ConfigurationError, match="positive"):
        durable.keep_done(log.connection, timedelta())


@pytest.mark.parametrize(
    ("id", "error"),
    [
        (7, ArgumentTypeError),
        (b"a", ArgumentTypeError),
        ("", ConfigurationError),
        ("a\0b", ConfigurationError),
        ("ä" * 513, ConfigurationError),
    ],
)
def test_ids_are_checked(id, error):
    """An id is refused before the server is asked."""
    with pytest.raises(error):
        done.check_id(id)


def test_errors(log, make_role):
    """What the server refuses is explained."""
    session = find_session(log.connection)
    done.claim(session, "a")
    with pytest.raises(AlreadyDoneError, match="'a' has been done already"):
        done.claim(session, "a")
    name, dsn = make_role()
    with psycopg.connect(dsn, autocommit=True) as worker:
        with pytest.raises(LogRefusedError, match="--grant-worker"):
            done.claim(find_session(worker), "b")
        durable.grant(log.connection, name, "worker")
        done.claim(find_session(worker), "b")
        with pytest.raises(LogRefusedError, match="no right"):
            durable.keep_done(worker, timedelta(days=1))
        worker.read_only = True
        with worker.transaction(), pytest.raises(LogRefusedError, match="read-only"):
            done.claim(find_session(worker), "c")
    durable.uninstall(log.connection)
    with pytest.raises(LogNotInstalledError, match="pgnotifier install"):
        done.claim(session, "d")
