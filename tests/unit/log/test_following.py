"""Reading the log from any point on, without a subscription."""

from datetime import timedelta

import psycopg
import pytest

from pgnotifier._connection.parameters import Parameters
from pgnotifier._log.following import LogFollower
from pgnotifier.durable import grant
from pgnotifier.errors import LogNotInstalledError, LogRefusedError


@pytest.fixture
def follow(pgnotifier_dsn, request):
    """Return a function that makes a follower with a connection."""

    def make(*channels, start="oldest", dsn=pgnotifier_dsn):
        follower = LogFollower(channels, start)
        connection = Parameters(dsn).connect()
        request.addfinalizer(connection.close)
        follower.use(connection)
        return follower

    return make


def payloads(follower):
    """Return what has been published since."""
    return [one.data.decode() for some in follower.read() for one in some]


def test_from_the_oldest_entry_on(log, follow):
    """All entries of the channels come in order, and later ones with the next call, once each."""
    log.execute("SELECT pgnotifier.publish('orders', 'a', 'k')")
    log.publish("others", "-")
    log.publish("invoices", "b")
    log.publish("orders", "c")
    follower = follow("orders", "invoices")
    ((first, *others),) = follower.read()
    assert (first.id, first.channel, first.key, first.data) == (1, "orders", "k", b"a")
    assert [one.data for one in others] == [b"b", b"c"]
    assert payloads(follower) == []
    log.publish("orders", "d")
    assert payloads(follower) == ["d"]


def test_places(log, follow):
    """It begins now, at an entry, at a time, or so long ago."""
    ids = log.publish("orders", "a", "b", "c")
    ((at,),) = log.execute("SELECT at FROM pgnotifier.log WHERE id = %s", ids[1])
    now = follow("orders", start="now")
    assert payloads(now) == []
    assert payloads(follow("orders", start=ids[1])) == ["b", "c"]
    assert payloads(follow("orders", start=at)) == ["b", "c"]
    assert payloads(follow("orders", start=timedelta(hours=1))) == ["a", "b", "c"]
    assert payloads(follow("orders", start=timedelta())) == []
    log.publish("orders", "d")
    assert payloads(now) == ["d"]


def test_ticks_are_places(log, follow):
    """With the ticks of many entries, an entry is found as well, and nothing comes twice."""
    log.execute("ALTER TABLE pgnotifier.log ALTER COLUMN snap SET DEFAULT pgnotifier.snapshot()")
    ids = log.publish("orders", *range(20))
    assert payloads(follow("orders")) == [*map(str, range(20))]
    assert payloads(follow("orders", start=ids[15])) == ["15", "16", "17", "18", "19"]


def test_a_transaction_in_progress_is_not_left_out(log, follow, pgnotifier_dsn):
    """What is committed late comes late, although its number is lower."""
    with psycopg.connect(pgnotifier_dsn) as late:
        late.execute("SELECT pgnotifier.publish('orders', 'late')")
        log.publish("orders", "early")
        follower = follow("orders")
        assert payloads(follower) == ["early"]
        assert payloads(follower) == []
        late.commit()
    assert payloads(follower) == ["late"]


def test_a_new_connection_goes_on(log, follow, pgnotifier_dsn):
    """In the middle of a window, another connection reads the rest, and nothing twice."""
    log.execute("SELECT pgnotifier.publish('orders', n::text) FROM generate_series(0, 1199) AS n")
    follower = follow("orders")
    reading = follower.read()
    first, second = next(reading), next(reading)
    with Parameters(pgnotifier_dsn).connect() as connection:
        follower.use(connection)
        log.publish("orders", "more")
        rest = payloads(follower) + payloads(follower)
    found = [int(one.data) for one in (*first, *second)]
    # The second list comes again, as nobody has asked for what follows it.
    assert (found, rest) == ([*range(1000)], [*map(str, range(500, 1200)), "more"])


def test_nothing_is_written(log, follow, make_role):
    """The rights of a listener are enough; no position is made, and no transaction is numbered.

    The server numbers transactions of its own, too: when it analyzes a table, for example.
    """
    role, dsn = make_role()
    grant(log.connection, role, "listener")
    log.publish("orders", "a")

    def numbers_none():
        before = log.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())")
        assert payloads(follow("orders", dsn=dsn)) == ["a"]
        return log.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())") == before

    assert any(numbers_none() for _ in range(5))
    assert log.execute("SELECT count(*) FROM pgnotifier.subscription") == [(0,)]


def test_missing_rights(log, follow, make_role, pgnotifier_dsn):
    """The error names the command that grants them."""
    _, dsn = make_role()
    with pytest.raises(LogRefusedError, match="--grant-listener"):
        follow("orders", dsn=dsn)


def test_no_log(db, follow):
    """The error names the command that installs the log."""
    with pytest.raises(LogNotInstalledError, match="pgnotifier install"):
        follow("orders")
