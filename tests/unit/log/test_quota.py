"""A log that has reached its quota takes no more, until space is given back."""

import threading

import psycopg
import pytest
from waiting import eventually

from pgnotifier import durable
from pgnotifier.durable import log_state
from pgnotifier.errors import LogFullError

QUOTA = 1_000_000


@pytest.fixture
def publisher(log, make_role):
    """Yield a session with the rights of a publisher."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "publisher")
    with psycopg.connect(dsn, autocommit=True) as session:
        yield session


def set_quota(log):
    """Give the log a quota of a megabyte."""
    log.execute("UPDATE pgnotifier.limits SET quota = %s", QUOTA)


def fill(log):
    """Publish over a megabyte."""
    log.execute(
        "INSERT INTO pgnotifier.log (channel, payload)"
        " SELECT 'orders', repeat(md5(n::text), 50) FROM generate_series(1, 1000) AS n"
    )


def test_a_full_log_refuses(log, publisher):
    """Once it has its quota, everybody's publications are refused in each way, with a hint."""
    log.subscribe()
    fill(log)
    set_quota(log)
    log.publish("orders", "not yet noticed")
    log.reclaim()
    assert log_state(log.connection).is_full
    for session in (publisher, log.connection):
        with pytest.raises(
            psycopg.errors.ConfigurationLimitExceeded, match="has reached its quota of 977 kB"
        ) as caught:
            session.execute("SELECT pgnotifier.publish('orders', '1')")
        assert "pgnotifier positions list" in caught.value.diag.message_hint
        with pytest.raises(LogFullError, match=r"can't publish to 'orders': .* its quota of 977"):
            durable.publish(session, "orders", "1")
        with pytest.raises(LogFullError):
            durable.publish_many(session, "orders", ["1", "2"])
    with (
        pytest.raises(psycopg.errors.ConfigurationLimitExceeded),
        publisher.cursor().copy("COPY pgnotifier.log (channel, payload) FROM STDIN") as copy,
    ):
        copy.write_row(("orders", "1"))


def test_space_is_given_back(log, publisher):
    """When readers have passed what there is, it is truncated, and publishing goes on."""
    position = log.subscribe()
    fill(log)
    set_quota(log)
    log.reclaim()
    assert len(log.read_all(position)) == 1000
    log.reclaim()
    state = log_state(log.connection)
    assert (state.is_full, state.size) == (False, 0)
    publisher.execute("SELECT pgnotifier.publish('orders', 'again')")
    assert log.read_all(position) == ["again"]


def test_space_is_given_back_meanwhile(log, publisher):
    """Whoever has read a slot's size before it was truncated doesn't have publications refused."""
    position = log.subscribe()
    fill(log)
    log.read_all(position)
    log.execute("SELECT setval('pgnotifier.slot', 1)")
    set_quota(log)
    with log.connect() as other, log.connect() as reader:
        thread = threading.Thread(target=other.execute, args=("SELECT pgnotifier.apply_quota()",))
        with reader.transaction():
            reader.execute("LOCK TABLE pgnotifier.log_7 IN ACCESS EXCLUSIVE MODE")
            thread.start()
            waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
            eventually(lambda: log.execute(waits, other.info.backend_pid)[0][0])
            assert reader.execute("SELECT freed FROM pgnotifier.reclaim()").fetchone() == (1,)
        thread.join()
    publisher.execute("SELECT pgnotifier.publish('orders', 'again')")
    assert log.read_all(position) == ["again"]


def test_a_higher_quota(log):
    """With a higher quota, or none, publishing goes on with the latest slot if none is empty."""
    position = log.subscribe()
    for n in range(8):
        log.publish("orders", n)
        log.reclaim()
    log.execute("UPDATE pgnotifier.limits SET quota = 1")
    log.reclaim()
    assert log_state(log.connection).is_full
    log.execute("UPDATE pgnotifier.limits SET quota = NULL")
    log.reclaim()
    log.publish("orders", "8")
    ((slot,),) = log.execute("SELECT slot FROM pgnotifier.log WHERE payload = '8'")
    assert slot == 7
    assert log.read_all(position) == [str(n) for n in range(9)]


@pytest.mark.slow
def test_an_attacker(log, publisher):
    """A publisher that fills the log as fast as it can is stopped in the middle of a statement."""
    position = log.subscribe()
    log.publish("orders", "mine")
    set_quota(log)
    stop = threading.Event()

    def give_back():
        with log.connect() as reader:
            while not stop.is_set():
                reader.execute("SELECT pgnotifier.reclaim('0', 1)")

    janitor = threading.Thread(target=give_back)
    janitor.start()
    try:
        for attack in [
            # Without a tick, and in one transaction that never ends by itself.
            (
                "INSERT INTO pgnotifier.log (channel, payload)"
                " SELECT 'orders', repeat(md5(n::text), 300) FROM generate_series(1, 10000000) AS n"
            ),
            (
                "DO $$ BEGIN LOOP PERFORM pgnotifier.publish('orders', repeat('x', 100000));"
                " END LOOP; END $$"
            ),
        ]:
            publisher.execute("SELECT setseed(0.5)")
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
                publisher.execute(attack)
    finally:
        stop.set()
        janitor.join()
    assert log.read_all(position) == ["mine"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pgnotifier.limits SET quota = NULL",
        "SELECT setval('pgnotifier.slot', 0)",
        "SELECT pgnotifier.apply_quota()",
        "SELECT * FROM pgnotifier.limits",
        "ALTER TABLE pgnotifier.log_full DISABLE TRIGGER refuse",
        "INSERT INTO pgnotifier.log_full (slot, channel, payload) VALUES (0, 'orders', '1')",
        "DROP TRIGGER refuse ON pgnotifier.log_full",
        "SET session_replication_role = replica",
    ],
)
def test_publishers_can_not_remove_it(publisher, statement):
    """A publisher can neither read nor change the quota, nor get around it."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        publisher.execute(statement)


@pytest.mark.slow
def test_without_a_reader(log, publisher):
    """If nobody reads, publications themselves notice it, one in a thousand."""
    set_quota(log)
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        publisher.execute(
            "INSERT INTO pgnotifier.log (channel, payload)"
            " SELECT 'orders', repeat('x', 100) FROM generate_series(1, 10000000) AS n"
        )
