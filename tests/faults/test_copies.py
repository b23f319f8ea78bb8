"""Databases that were copied: what was undelivered in the original is delivered by the copy."""

import json
import threading
from contextlib import ExitStack

import psycopg
import pytest
from copying import dump, restore
from log_position import ForeignPositionError, Position
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgnotifier._connection.parameters import Parameters
from pgnotifier._log import dead_letters, guard, installing, positions
from pgnotifier.errors import LogNotInstalledError, LogRefusedError
from pgnotifier.testing import PostgresServer
from pgnotifier.testing.wheels import find_postgres

from .replica import Replica, replica_of
from .waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection like a reading thread's, to a database with the log."""
    with Parameters(pgnotifier_dsn).connect() as connection:
        installing.install(connection)
        yield connection


@pytest.fixture
def elsewhere():
    """Yield the conninfo string of another server."""
    with PostgresServer() as server:
        yield server.dsn


def publish(connection, *payloads):
    """Publish in a transaction each."""
    for one in payloads:
        connection.execute("SELECT pgnotifier.publish('orders', %s)", (one,))


def read(connection, position, limit=1000):
    """Read a batch, save the position, and return the payloads."""
    with connection.transaction():
        reading = position.read(connection, limit)
        position.save(connection, reading)
    return [one.payload for one in reading.entries]


def read_all(connection, position):
    """Read until nothing is left, and return the payloads."""
    payloads = []
    while batch := read(connection, position):
        payloads += batch
    return payloads


def burn(connection, count):
    """Use up the numbers of so many transactions."""
    connection.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP"
        " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    )


def due(connection, position):
    """Return the payloads of what is delivered beside the flow."""
    return [one.payload.decode() for one in dead_letters.find_due(connection, position.sub, 1000)]


def prepare(connection):
    """Publish, and read one subscription half-way and another to the end; leave a transaction open.

    Returns its connection, which has published an entry with a low id.
    """
    position = Position(positions.subscribe(connection, "half", "orders"))
    other = Position(positions.subscribe(connection, "all", "orders"))
    late = psycopg.connect(connection.info.dsn)
    late.execute("SELECT pgnotifier.publish('orders', 'late')")
    publish(connection, *"abcdef")
    assert read(connection, position, 3) == ["a", "b", "c"]
    assert read_all(connection, other) == [*"abcdef"]
    return late


@pytest.mark.parametrize("options", [[], ["--inserts"]], ids=["COPY", "INSERT"])
@pytest.mark.parametrize("transactions", [0, 5000])
def test_dump_and_restore(connection, pgnotifier_dsn, elsewhere, options, transactions):
    """After a restore, each subscription gets exactly what it had not got, and what is new.

    The new server has seen fewer transactions than the old one, or more.
    """
    prepare(connection).close()
    dumped = dump(pgnotifier_dsn, *options)
    with Parameters(elsewhere).connect() as copy:
        burn(copy, transactions)
        restore(dumped, elsewhere)
        half = Position(positions.subscribe(copy, "half", "orders"))
        whole = Position(positions.subscribe(copy, "all", "orders"))
        publish(copy, "new")
        for one in (half, whole):
            with pytest.raises(ForeignPositionError), copy.transaction():
                one.read(copy, 10)
        assert guard.reanchor(copy)
        assert due(copy, half) == ["d", "e", "f", "new"]
        assert due(copy, whole) == ["new"]
        publish(copy, "newer")
        assert read_all(copy, half) == read_all(copy, whole) == ["newer"]
        again = Position(positions.subscribe(copy, "again", "orders", "oldest"))
        assert read_all(copy, again) == [*"abcdef", "new", "newer"]


@pytest.mark.parametrize("options", [[], ["--inserts"]], ids=["COPY", "INSERT"])
def test_a_dump_with_outboxes(connection, pgnotifier_dsn, elsewhere, options):
    """What was enqueued is restored by a role without superuser, and still reserved afterwards."""
    channel = "pgnotifier:celery:default"
    connection.execute("SELECT pgnotifier.open_outbox('outbox', %s)", (channel,))
    connection.execute("SELECT pgnotifier.enqueue('shop.invoice', '[7]')")
    dumped = dump(pgnotifier_dsn, *options)
    with Parameters(elsewhere).connect() as admin:
        (name,) = admin.execute("SELECT current_database()").fetchone()
        for statement in (
            "CREATE ROLE restorer LOGIN",
            "CREATE ROLE web LOGIN",
            f"GRANT CREATE ON DATABASE {name} TO restorer",
        ):
            admin.execute(statement.encode())
    restore(dumped, make_conninfo(elsewhere, user="restorer"))
    with Parameters(make_conninfo(elsewhere, user="restorer")).connect() as copy:
        installing.grant(copy, "web", "publisher")
        assert guard.reanchor(copy)
        copy.execute("SELECT pgnotifier.enqueue('shop.invoice', '[8]')")
        position = Position(positions.subscribe(copy, "outbox", channel))
        found = due(copy, position) + read_all(copy, position)
        assert [json.loads(one)["args"] for one in found] == [[7], [8]]
        constraint = "SELECT convalidated FROM pg_constraint WHERE conname = 'channel_reserved'"
        assert copy.execute(constraint).fetchone() == (False,)
    with (
        psycopg.connect(make_conninfo(elsewhere, user="web"), autocommit=True) as publisher,
        pytest.raises(psycopg.errors.CheckViolation, match="channel_reserved"),
    ):
        publisher.execute("SELECT pgnotifier.publish(%s, '{}')", (channel,))


@pytest.mark.parametrize("transactions", [(5000, 0), (0, 5000)], ids=["fewer", "more"])
def test_a_restore_that_has_not_finished(
    connection, pgnotifier_dsn, elsewhere, make_notifier, caplog, transactions
):
    """While the restore goes on, nothing is truncated, and listeners say what they wait for.

    The new server has seen fewer transactions than the old one, or more.
    """
    burn(connection, transactions[0])
    prepare(connection).close()
    tables = dump(pgnotifier_dsn, "--section=pre-data", "--section=data")
    got = []
    with Parameters(elsewhere).connect() as copy:
        burn(copy, transactions[1])
        restore(tables, elsewhere)
        assert copy.execute("SELECT * FROM pgnotifier.reclaim('0', 1)").fetchone() == (0, 0)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="has not finished"):
            guard.reanchor(copy)
        notifier = make_notifier(elsewhere)
        starting = threading.Thread(
            target=notifier.subscribe,
            args=("half", "orders", lambda *given: got.append(given[2])),
            kwargs={"durable": True},
            daemon=True,
        )
        starting.start()  # it may wait until the log can be read
        eventually(lambda: "has not finished" in caplog.text)
        restore(dump(pgnotifier_dsn, "--section=post-data"), elsewhere)
        eventually(lambda: sorted(got) == ["d", "e", "f"])
        starting.join(60)
        assert not starting.is_alive()


def test_a_publication_in_a_dump(connection, pgnotifier_dsn, elsewhere):
    """A publication for all tables is copied, too, and doesn't keep the log from being repaired."""
    prepare(connection).close()
    connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    with Parameters(elsewhere).connect() as copy:
        restore(dump(pgnotifier_dsn), elsewhere)
        query = (
            "SELECT DISTINCT c.relreplident FROM pg_inherits AS i"
            " JOIN pg_class AS c ON c.oid = i.inhrelid WHERE inhparent = 'pgnotifier.log'::regclass"
        )
        before = copy.execute(query).fetchall()
        half = Position(positions.subscribe(copy, "half", "orders"))
        assert guard.reanchor(copy)
        assert due(copy, half) == ["d", "e", "f"]
        assert copy.execute(query).fetchall() == before == [("d",)]


def test_nothing_is_truncated_before_it_is_repaired(connection, pgnotifier_dsn, elsewhere):
    """As long as a position is another server's, no space is given back."""
    prepare(connection).close()
    restore(dump(pgnotifier_dsn), elsewhere)
    with Parameters(elsewhere).connect() as copy:
        for _ in range(3):
            assert copy.execute("SELECT * FROM pgnotifier.reclaim('0', 1)").fetchone() == (0, 0)
        assert copy.execute("SELECT count(*) FROM pgnotifier.log").fetchone() == (6,)


def test_logical_replication(pgnotifier_private_postgres):
    """After a switch to a logical replica, nothing that was undelivered is lost."""
    with (
        PostgresServer(settings={"wal_level": "logical"}) as source,
        Parameters(source.dsn).connect() as old,
        Parameters(pgnotifier_private_postgres.dsn).connect() as new,
    ):
        installing.install(old)
        prepare(old).close()
        restore(dump(source.dsn, "--schema-only"), pgnotifier_private_postgres.dsn)
        old.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        new.execute(
            sql.SQL("CREATE SUBSCRIPTION copy CONNECTION {} PUBLICATION everything").format(
                source.dsn
            )
        )
        for table in ("installed", "log", "origin", "position", "subscription"):
            query = f"SELECT count(*) FROM pgnotifier.{table}"
            wait_until(new, query, *old.execute(query).fetchone())
        publish(old, "g")
        wait_until(new, "SELECT count(*) FROM pgnotifier.log", 7)
        new.execute("DROP SUBSCRIPTION copy")
        publish(new, "new")
        half = Position(positions.subscribe(new, "half", "orders"))
        whole = Position(positions.subscribe(new, "all", "orders"))
        assert guard.reanchor(new)
        # The replica's ids begin at 1 again, so the order among these is not the old one.
        assert sorted(due(new, half)) == ["d", "e", "f", "g", "new"]
        assert sorted(due(new, whole)) == ["g", "new"]
        publish(new, "newer")
        assert read_all(new, half) == ["newer"]


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "idle"])
@pytest.mark.parametrize("transactions", [0, 3000])
def test_a_physical_copy_that_takes_over(make_notifier, is_read, transactions):
    """A copy that follows by logical replication, and is switched to, delivers what is undelivered.

    Positions that were saved before the copy was made are its own, and entries that were published
    since are not. So are the others, unless nobody read in between.
    """
    got = {"reads": [], "down": []}

    def subscribe(dsn, *names):
        notifier = make_notifier(dsn)
        for name in names:
            notifier.subscribe(
                name, "orders", lambda name, *rest: got[name].append(rest[1]), durable=True
            )
        return notifier

    with PostgresServer(settings={"wal_level": "logical"}) as blue, ExitStack() as stack:
        old = stack.enter_context(Parameters(blue.dsn).connect())
        installing.install(old)
        for name in got:
            positions.subscribe(old, name, "orders")
        publish(old, "1")
        with subscribe(blue.dsn, *got):
            eventually(lambda: got == {"reads": [1], "down": [1]})
        publish(old, "2")
        old.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        old.execute("SELECT pg_create_logical_replication_slot('copy', 'pgoutput')")
        green = stack.enter_context(replica_of(blue, follows=False))
        new = stack.enter_context(Parameters(green.dsn).connect())
        new.execute("DROP PUBLICATION everything")
        new.execute(
            sql.SQL(
                "CREATE SUBSCRIPTION copy CONNECTION {} PUBLICATION everything"
                " WITH (create_slot = false, slot_name = 'copy', copy_data = false)"
            ).format(blue.dsn)
        )
        burn(old, transactions)
        publish(old, "3", "4")
        if is_read:
            with subscribe(blue.dsn, "reads"):
                eventually(lambda: got["reads"] == [1, 2, 3, 4])
        publish(old, "5", "6")
        for table in ("log", "position"):
            query = f"SELECT count(*) FROM pgnotifier.{table}"
            wait_until(new, query, *old.execute(query).fetchone())
        new.execute("DROP SUBSCRIPTION copy")
        with subscribe(green.dsn, *got):
            eventually(lambda: set(got["down"]) >= set(range(1, 7)) <= set(got["reads"]))
            publish(new, "7")
            eventually(lambda: got["down"][-1:] == got["reads"][-1:] == [7])
    assert sorted(got["down"]) == [1, 2, 3, 4, 5, 6, 7]


def wait_until(connection, query, value):
    """Wait until a query returns a value."""
    eventually(lambda: connection.execute(query).fetchone() == (value,))


def test_a_false_alarm(connection):
    """Re-anchoring what needs no repair changes nothing."""
    late = prepare(connection)
    half = Position(positions.subscribe(connection, "half", "orders"))
    assert guard.reanchor(connection)
    assert due(connection, half) == []
    late.commit()
    late.close()
    publish(connection, "new")
    assert sorted(read_all(connection, half)) == ["d", "e", "f", "late", "new"]


def test_a_false_alarm_keeps_undelivered_ticks(connection):
    """Re-anchoring what needs no repair loses no entry, nor one with a snapshot."""
    half = Position(positions.subscribe(connection, "half", "orders"))
    connection.execute(
        "INSERT INTO pgnotifier.log (snap, channel, payload)"
        " VALUES (pgnotifier.snapshot(), 'orders', 'tick')"
    )
    assert guard.reanchor(connection)
    publish(connection, "new")
    assert read_all(connection, half) == ["tick", "new"]
    assert due(connection, half) == []


def test_a_position_that_is_made_after_a_savepoint(connection):
    """A position isn't taken for a copied one because a subtransaction has written it."""
    positions.subscribe(connection, "half", "orders")
    for rolls_back in (False, True):
        with connection.transaction(), connection.transaction():
            connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS t ()")
            with connection.transaction(force_rollback=rolls_back):
                positions.seek(connection, "half", "orders", "now")
                positions.subscribe(connection, "other", "orders")
    publish(connection, "a")
    for name in ("half", "other"):
        position = Position(positions.subscribe(connection, name, "orders"))
        assert read_all(connection, position) == ["a"]


@pytest.mark.parametrize("has_subscriptions", [True, False])
def test_a_new_subscription_of_a_copy(
    connection, pgnotifier_dsn, elsewhere, make_notifier, make_recorder, has_subscriptions
):
    """It starts now, and gets nothing that was copied, whatever the first reader is for."""
    if has_subscriptions:
        prepare(connection).close()
    publish(connection, *"xyz")
    restore(dump(pgnotifier_dsn), elsewhere)
    new, half = make_recorder(), make_recorder()
    notifier = make_notifier(elsewhere)
    notifier.subscribe("new", "orders", new, durable=True)
    if has_subscriptions:
        notifier.subscribe("half", "orders", half, durable=True)
        assert half.wait_for(6) == [*"defxyz"]
    with psycopg.connect(elsewhere, autocommit=True) as copy:
        burn(copy, 5000)  # as many transactions as the original has had, and more
        publish(copy, "now")
    assert new.wait_for(1) == ["now"]
    notifier.stop()


def test_seeking_in_a_copy(connection, pgnotifier_dsn, elsewhere):
    """The first thing that is done to a copy may be to move a position."""
    prepare(connection).close()
    restore(dump(pgnotifier_dsn), elsewhere)
    with Parameters(elsewhere).connect() as copy:
        assert positions.seek(copy, "half", "orders", "now")
        half = Position(positions.subscribe(copy, "half", "orders"))
        publish(copy, "new")
        assert read_all(copy, half) == ["new"]
        assert due(copy, half) == ["d", "e", "f"]


def test_while_a_subscription_is_in_use(connection, pgnotifier_dsn):
    """While a session advances a subscription, re-anchoring is put off."""
    prepare(connection).close()
    half = Position(positions.subscribe(connection, "half", "orders"))
    with Parameters(pgnotifier_dsn).connect() as other, other.transaction():
        assert half.read(other, 10) is not None
        assert not guard.reanchor(connection)
    assert guard.reanchor(connection)


def test_a_crash_needs_no_repair(pgnotifier_private_postgres):
    """After a crash of the server, positions are still its own."""
    server = pgnotifier_private_postgres
    with Parameters(server.dsn).connect() as connection:
        connection.execute("SET synchronous_commit = on")
        installing.install(connection)
        prepare(connection).close()
    server.stop("immediate")
    server.start()
    with Parameters(server.dsn).connect() as connection:
        half = Position(positions.subscribe(connection, "half", "orders"))
        assert read_all(connection, half)[-3:] == ["d", "e", "f"]


def test_vacuum_needs_no_repair(connection):
    """Freezing and rewriting tables leaves positions valid."""
    prepare(connection).close()
    half = Position(positions.subscribe(connection, "half", "orders"))
    connection.execute("VACUUM (FREEZE) pgnotifier.position")
    connection.execute("VACUUM FULL pgnotifier.position")
    connection.execute("CLUSTER pgnotifier.position USING position_pkey")
    assert read_all(connection, half) == ["d", "e", "f"]


def test_the_server_is_checked(pgnotifier_dsn):
    """A database without the log is refused."""
    with Parameters(pgnotifier_dsn).connect() as connection:
        with pytest.raises(LogNotInstalledError):
            guard.check_server(connection)
        installing.install(connection)
        guard.check_server(connection)


def test_standbys(pgnotifier_private_postgres):
    """A hot standby is refused, at the start and when it is read; its promotion needs no repair."""
    if not (find_postgres() / "bin" / "pg_basebackup").exists():
        pytest.skip("needs pg_basebackup, which this PostgreSQL lacks")
    primary = pgnotifier_private_postgres
    with Parameters(primary.dsn).connect() as connection:
        installing.install(connection)
        prepare(connection).close()
        number = positions.subscribe(connection, "half", "orders")
    with Replica(primary) as replica:
        with Parameters(replica.dsn).connect() as standby:
            with pytest.raises(LogRefusedError, match=r"standby.*target_session_attrs=read-write"):
                guard.check_server(standby)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), standby.transaction():
                Position(number).read(standby, 10)
            with pytest.raises(LogRefusedError, match="standby"):
                installing.uninstall(standby)
        replica.promote()
        with Parameters(replica.dsn).connect() as promoted:
            eventually(
                lambda: promoted.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
            )
            promoted.execute("SET default_transaction_read_only = off")
            guard.check_server(promoted)
            assert read_all(promoted, Position(number)) == ["d", "e", "f"]
