"""Positions and the log are described as they are: who reads what, and what keeps the space."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from waiting import eventually

from pgnotifier import durable
from pgnotifier._connection.parameters import Parameters
from pgnotifier.durable import MaxLag, log_state, positions
from pgnotifier.errors import LogNotInstalledError, LogRefusedError
from pgnotifier.testing import PostgresServer


def fill_slots(log, count):
    """Publish one entry into each of so many slots, after which another one is the current."""
    for n in range(count):
        log.publish("orders", n)
        log.reclaim()


def test_a_subscription_that_is_behind(log):
    """The lag counts the channel's entries, and the time since the oldest was published."""
    position = log.subscribe()
    (one,) = positions(log.connection)
    assert (one.name, one.channel, one.lag, one.lag_seconds) == ("sub", "orders", 0, 0.0)
    assert (one.failed, one.attempts, one.dead, one.max_lag, one.slots) == (0, 0, 0, None, ())
    log.publish("orders", *range(5))
    log.publish("other", *range(7))
    (one,) = positions(log.connection)
    assert one.lag == 5
    assert 0 < one.lag_seconds < 60
    assert one.slots == (0,)
    assert log.read(position, 2) == ["0", "1"]
    assert positions(log.connection)[0].lag == 3
    log.read_all(position)
    assert positions(log.connection)[0].lag == 0


@pytest.mark.parametrize("interval_style", ["sql_standard", "postgres_verbose", "iso_8601"])
def test_styles_of_the_session(log, interval_style):
    """However a session writes times, durations and floats, they are read as they are."""
    durable.install(log.connection, retention=timedelta(days=40, hours=3))
    log.subscribe()
    log.publish("orders", 1)
    log.execute("SELECT pgnotifier.limit_lag(sub, 5, NULL, '1 day 2 h') FROM pgnotifier.positions")
    usual, (before,) = log_state(log.connection), positions(log.connection)
    with log.connect() as session:
        for setting in (f"IntervalStyle = {interval_style}", "DateStyle = German", "TimeZone = 8"):
            session.execute(f"SET {setting}")
        session.execute("SET extra_float_digits = -15")
        assert log_state(session) == usual
        (one,) = positions(session)
    assert usual.retention == timedelta(days=40, hours=3)
    assert one.max_lag == MaxLag(entries=5, age=timedelta(days=1, hours=2))
    assert one == replace(before, lag_seconds=one.lag_seconds, rate=one.rate)
    assert before.lag_seconds <= one.lag_seconds < 60


def test_a_lag_of_thousands_is_an_upper_bound(log):
    """Over a thousand entries aren't counted: the number is that of all channels' entries."""
    log.subscribe()
    log.publish("other", *range(10))
    log.execute(
        "INSERT INTO pgnotifier.log (channel, payload)"
        " SELECT 'orders', n::text FROM generate_series(1, 3000) AS n"
    )
    assert positions(log.connection)[0].lag == 3010


def test_what_committed_late_counts(log):
    """An entry with an old transaction that was committed since counts as well."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        log.publish("orders", "a")
        log.read_all(position)
        assert positions(log.connection)[0].lag == 0
        publisher.commit()
    assert positions(log.connection)[0].lag == 1


def test_who_reads_it(log, eventually):
    """The pid is that of the session that holds the subscription, or has noted that it reads it."""
    position = log.subscribe()
    (one,) = positions(log.connection)
    assert one.reader_pid is None
    assert one.unread_since == one.saved_at
    with log.connect() as reader:
        reader.execute("SELECT pgnotifier.hold(%s)", (position.sub,))
        assert positions(log.connection)[0].reader_pid == reader.info.backend_pid
    eventually(lambda: positions(log.connection)[0].reader_pid is None)  # its session has ended
    with log.connect() as reader:
        reader.execute("SELECT pgnotifier.note_reader(%s, '{12.5}')", ([position.sub],))
        (one,) = positions(log.connection)
        assert (one.reader_pid, one.rate) == (reader.info.backend_pid, 12.5)
        assert one.unread_since is None
    log.execute("UPDATE pgnotifier.reader SET pid = 0")  # PostgreSQL takes a moment to note it
    (one,) = positions(log.connection)
    assert (one.reader_pid, one.rate) == (None, None)
    assert datetime.now(UTC) - one.unread_since < timedelta(minutes=1)


def test_what_has_failed(log):
    """Failed entries and dead letters are counted, and the most attempts."""
    position = log.subscribe()
    for attempts, dead in [(2, False), (4, False), (9, True)]:
        log.execute(
            "INSERT INTO pgnotifier.failed (sub, id, at, channel, payload, attempts, dead)"
            " VALUES (%s, 1, now(), 'orders', '', %s, %s)",
            position.sub,
            attempts,
            dead,
        )
    (one,) = positions(log.connection)
    assert (one.failed, one.attempts, one.dead) == (2, 4, 1)


def test_nobody_waits_in_a_circle(log):
    """A reader can note what it reads while another one looks for what nobody reads."""
    subs = [log.subscribe(name).sub for name in ("b", "a")]
    fill_slots(log, 2)
    found = []

    def find_unread(other):
        found.extend(other.execute("SELECT name FROM pgnotifier.find_unread('0')").fetchall())

    with log.connect() as other, log.connect(autocommit=False) as reader:
        note = "SELECT pgnotifier.note_reader(ARRAY[%s], ARRAY[1.0]::float8[])"
        reader.execute(note, subs[:1])
        thread = threading.Thread(target=find_unread, args=(other,))
        thread.start()
        waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: log.execute(waits, other.info.backend_pid)[0][0])
        reader.execute(note, subs[1:])
        reader.commit()
        thread.join()
    assert sorted(found) == [("a",), ("b",)]


def test_the_limit_of_a_subscription(log):
    """A limit is shown as it was given."""
    position = log.subscribe()
    log.execute("SELECT pgnotifier.limit_lag(%s, 5, NULL, '7 days')", position.sub)
    assert positions(log.connection)[0].max_lag == MaxLag(entries=5, age=timedelta(days=7))


def test_an_empty_log(log):
    """An empty log has no slots in use, and nothing holds it back."""
    state = log_state(log.connection)
    assert (state.size, state.slots, state.holders) == (0, (), ())
    assert (state.quota, state.is_full, state.retention) == (None, False, timedelta())


def test_a_subscription_holds_space(log):
    """A subscription that is behind is named, with the slots that it keeps; others aren't."""
    log.subscribe("forgotten")
    position = log.subscribe("read")
    fill_slots(log, 3)
    log.read_all(position)
    log.publish("orders", "current")
    state = log_state(log.connection)
    assert [(slot.number, slot.is_current, slot.first_id) for slot in state.slots] == [
        (0, False, 1),
        (1, False, 2),
        (2, False, 3),
        (3, True, 4),
    ]
    (holder,) = state.holders
    assert (holder.kind, holder.name, holder.slots) == ("subscription", "forgotten", (0, 1, 2))
    assert holder.size == sum(slot.size for slot in state.slots[:3])
    assert holder.since == state.slots[0].oldest
    assert str(holder) == "subscription 'forgotten' on channel 'orders'"
    forgotten, read = positions(log.connection)
    assert (forgotten.slots, read.slots) == ((0, 1, 2, 3), (3,))
    assert forgotten.kept_bytes == state.size


def test_an_open_transaction_holds_space(log):
    """A transaction that has published and is open is named by its pid."""
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        fill_slots(log, 2)
        (holder,) = log_state(log.connection).holders
        pid = publisher.info.backend_pid
        assert (holder.kind, holder.pid, holder.slots) == ("transaction", pid, (0,))
        assert datetime.now(UTC) - holder.since < timedelta(minutes=5)
        assert str(holder) == f"the open transaction of pid {pid}"


@pytest.mark.slow
def test_a_reader_holds_space(log):
    """A session that reads the log for seconds is named: TRUNCATE has to wait for it."""
    position = log.subscribe()
    fill_slots(log, 2)
    log.read_all(position)
    with log.connect(autocommit=False) as dump:
        dump.execute("SELECT count(*) FROM pgnotifier.log")
        assert log_state(log.connection).holders == ()  # it may be done in a moment
        dump.execute("SELECT pg_sleep(5.1)")
        (holder,) = log_state(log.connection).holders
        pid = dump.info.backend_pid
        assert (holder.kind, holder.pid, holder.slots) == ("reader", pid, (0, 1))
        assert str(holder) == f"pid {pid}, which reads the log for long"


def test_the_retention_holds_space(log):
    """What is kept for its age alone is named, too."""
    log.execute("UPDATE pgnotifier.limits SET retention = '1 day'")
    fill_slots(log, 2)
    (holder,) = log_state(log.connection).holders
    assert (holder.kind, holder.slots, str(holder)) == ("retention", (0, 1), "the retention")


def test_as_json(log):
    """All of it can be written as JSON."""
    log.subscribe()
    fill_slots(log, 1)
    state = log_state(log.connection).to_dict()
    assert state["holders"][0]["kind"] == "subscription"
    assert state["retention"] == 0.0
    (one,) = positions(log.connection)
    assert one.to_dict()["saved_at"] == one.saved_at.isoformat()


def test_as_a_listener(log, make_role):
    """The rights of a listener are all that it takes; without them, the error says what to do."""
    name, dsn = make_role()
    log.subscribe()
    with psycopg.connect(dsn, autocommit=True) as session:
        for describe in (positions, log_state):
            with pytest.raises(LogRefusedError, match="--grant-listener"):
                describe(session)
        durable.grant(log.connection, name, "listener")
        assert len(positions(session)) == 1
        with log.connect(autocommit=False) as publisher:
            publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
            fill_slots(log, 1)
            kinds = [(one.kind, one.since is None) for one in log_state(session).holders]
        assert sorted(kinds) == [("subscription", False), ("transaction", True)]


def test_without_a_log(pgnotifier_dsn):
    """A database without the log is refused with the way out."""
    with Parameters(pgnotifier_dsn).connect() as connection:
        for describe in (positions, log_state):
            with pytest.raises(LogNotInstalledError, match="pgnotifier install"):
                describe(connection)


@pytest.mark.servers
def test_a_prepared_transaction_holds_space():
    """A prepared transaction that has published is named by its gid."""
    gid = "shop"
    with (
        PostgresServer(settings={"max_prepared_transactions": 2}) as server,
        Parameters(server.dsn).connect() as connection,
    ):
        durable.install(connection)
        with psycopg.connect(server.dsn) as publisher:
            publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
            publisher.execute(f"PREPARE TRANSACTION '{gid}'")
            publisher.commit()
        for _ in range(2):
            connection.execute("SELECT pgnotifier.publish('orders', 'x')")
            connection.execute("SELECT pgnotifier.reclaim('0', 1)")
        kinds = {
            (one.kind, one.gid, str(one), one.since is None)
            for one in log_state(connection).holders
        }
        assert kinds == {("prepared", gid, f"the prepared transaction '{gid}'", False)}
        connection.execute(f"ROLLBACK PREPARED '{gid}'")
