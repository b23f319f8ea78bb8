"""The schema is upgraded from every version, whatever is going on, and nothing is lost."""

import contextlib
import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from log_position import Position

from pgnotifier import durable
from pgnotifier._connection.parameters import Parameters
from pgnotifier._log import dead_letters, installing, positions
from pgnotifier._log.dead_letters import Failure
from pgnotifier.errors import LogNotInstalledError

CATALOG = """
SELECT 'column', c.relname || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
    a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid), a.attacl::text, c.relacl::text,
    c.reloptions::text)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'pgnotifier'::regnamespace
UNION ALL
SELECT 'constraint', conname || ' of ' || conrelid::regclass, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'pgnotifier'::regnamespace
UNION ALL
SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index JOIN pg_class AS c ON c.oid = indrelid
WHERE c.relnamespace = 'pgnotifier'::regnamespace
UNION ALL
SELECT 'trigger', tgname || ' of ' || tgrelid::regclass, pg_get_triggerdef(oid)
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'partition', inhrelid::regclass::text, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
UNION ALL
SELECT 'function', oid::regprocedure::text,
    CASE WHEN prokind = 'f' THEN pg_get_functiondef(oid) END || proacl::text
FROM pg_proc WHERE pronamespace = 'pgnotifier'::regnamespace
UNION ALL
SELECT 'domain', oid::regtype::text, typacl::text
FROM pg_type WHERE typnamespace = 'pgnotifier'::regnamespace AND typtype = 'd'
UNION ALL
SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE nspname = 'pgnotifier'
ORDER BY 1, 2
"""
OLD = range(1, installing.VERSION)
pytestmark = pytest.mark.parametrize("version", OLD)


def install_old(connection, version):
    """Install an old version, as it was when it was the newest."""
    assert durable.install(connection, version) is True


def grant_old(connection, role, part, version):
    """Grant a role what an old version did."""
    statements = durable.grant_script(role, part, version)
    with connection.transaction():
        connection.execute(statements.encode())


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection of the owner, like a reading thread's."""
    with Parameters(pgnotifier_dsn).connect() as connection:
        yield connection


@pytest.fixture
def roles(make_role):
    """Return a publisher and a listener: the name and the conninfo string of each."""
    return make_role(), make_role()


def publish(connection, *payloads):
    """Publish each one in a transaction of its own."""
    for one in payloads:
        connection.execute("SELECT pgnotifier.publish('orders', %s)", (str(one),))


def read(connection, position, limit=1000):
    """Read a batch and move the position; return the payloads."""
    with connection.transaction():
        reading = position.read(connection, limit)
        position.save(connection, reading)
    return [one.payload for one in reading.entries]


def read_rest(connection, position):
    """Read all that is left; return the payloads. On a busy machine, one batch may be empty."""
    payloads = []
    while True:
        with connection.transaction():
            reading = position.read(connection, 1000)
            position.save(connection, reading)
        payloads += [one.payload for one in reading.entries]
        if reading.is_last:
            return payloads


def upgrade_from_everywhere(dsn, count=4):
    """Upgrade from several sessions at once; return how many of them had something to do."""
    barrier, changed = threading.Barrier(count), []

    def upgrade():
        with psycopg.connect(dsn, autocommit=True) as session:
            barrier.wait(60)
            changed.append(durable.install(session))

    threads = [threading.Thread(target=upgrade) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(changed) == count
    return sum(changed)


def test_check(connection, version):
    """`check` says what to do before the upgrade, and that all is well after it."""
    install_old(connection, version)
    with pytest.raises(LogNotInstalledError, match=f"has version {version}, .*pgnotifier install"):
        durable.check(connection)
    assert durable.install(connection) is True
    assert durable.check(connection) == durable.VERSION
    assert durable.install(connection) is False


@pytest.mark.slow
def test_what_is_there(connection, pgnotifier_dsn, roles, version):
    """Positions half-way, failed and dead entries, open transactions and rights all survive."""
    (publisher, publisher_dsn), (listener, listener_dsn) = roles
    install_old(connection, version)
    grant_old(connection, publisher, "publisher", version)
    grant_old(connection, listener, "listener", version)
    half = Position(positions.subscribe(connection, "half", "orders"))
    ready = Position(positions.subscribe(connection, "ready", "orders"))
    behind = Position(positions.subscribe(connection, "behind", "orders"))
    publish(connection, *"abcdef")
    assert read(connection, half, 3) == ["a", "b", "c"]
    assert read(connection, ready) == [*"abcdef"]
    entry = Position(behind.sub)
    with connection.transaction():
        first, second, *_ = entry.read(connection, 10).entries
        for one, is_dead in ((first, False), (second, True)):
            failure = Failure("ValueError: no", retry_in=0.0, is_dead=is_dead)
            dead_letters.record_failure(connection, ready.sub, "orders", one, failure)
    with (
        psycopg.connect(publisher_dsn) as late,
        psycopg.connect(listener_dsn, autocommit=True) as old_reader,
    ):
        late.execute("SELECT pg_current_xact_id()")  # it has not published yet
        old_reader.execute("SELECT pgnotifier.hold(%s)", (half.sub,))
        assert upgrade_from_everywhere(pgnotifier_dsn) == 1
        late.execute("SELECT pgnotifier.publish('orders', 'late')")
        late.commit()
        # The session of a reader of the old version goes on with what it knew.
        taken = old_reader.execute(
            "SELECT channel, done::text, target::text, last_id"
            " FROM pgnotifier.take(%s, NULL, NULL)",
            (half.sub,),
        ).fetchone()
        found = old_reader.execute(
            "SELECT id, payload FROM pgnotifier.read(%s, %s::pg_snapshot, %s::pg_snapshot, %s, 1)",
            taken,
        ).fetchone()
        assert found[1] == b"d"
        old_reader.execute(
            "SELECT pgnotifier.save(%s, %s::pg_snapshot, %s::pg_snapshot, %s)",
            (half.sub, *taken[1:3], found[0]),
        )
        old_reader.execute("SELECT freed, blocked FROM pgnotifier.reclaim('0'::interval)")
    with (
        psycopg.connect(publisher_dsn, autocommit=True) as new_publisher,
        Parameters(listener_dsn).connect() as new_listener,
    ):
        publish(new_publisher, "new")
        rest = ["late", "new"]
        assert read(new_listener, half) + read(new_listener, half) == ["e", "f", *rest]
        assert read(new_listener, ready) == rest
        assert read(new_listener, behind) + read(new_listener, behind) == [*"abcdef", *rest]
        (due,) = dead_letters.find_due(new_listener, ready.sub, 10)
        assert (due.id, due.attempts) == (first.id, 1)
        (dead,) = dead_letters.find_letters(new_listener)
        assert dead.id == second.id
        assert len(durable.positions(new_listener)) == 3
        assert durable.log_state(new_listener).size > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            new_listener.execute("SELECT pgnotifier.configure('1 day', NULL)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            new_publisher.execute("SELECT * FROM pgnotifier.list_positions()")
    assert durable.uninstall(connection) is True
    left = connection.execute(
        "SELECT count(*) FROM pg_class WHERE relname ~ '^log_|^max_lag|^gap|^reader'"
    )
    assert left.fetchone() == (0,)


@pytest.mark.slow
def test_while_publishers_and_readers_run(connection, pgnotifier_dsn, version):
    """Publishers that run during the upgrade fail at nothing, and readers lose nothing.

    A reader that is amid a function of the old version may fail once; it reads again.
    """
    install_old(connection, version)
    position = Position(positions.subscribe(connection, "sub", "orders"))
    stop, failures, published, payloads = threading.Event(), [], [], []

    def run(step):
        try:
            with Parameters(pgnotifier_dsn).connect() as session:
                while not stop.is_set():
                    step(session)
        except Exception as exc:  # noqa: BLE001 - is shown below
            failures.append(exc)

    def write(session):
        published.append(str(len(published)))
        publish(session, published[-1])

    def read_on(session):
        with contextlib.suppress(psycopg.errors.DatatypeMismatch):
            payloads.extend(read(session, position, 10))

    threads = [threading.Thread(target=run, args=(step,)) for step in (write, read_on)]
    for one in threads:
        one.start()
    began = datetime.now(UTC)
    assert upgrade_from_everywhere(pgnotifier_dsn) == 1
    assert (datetime.now(UTC) - began).total_seconds() < 60
    count = len(published)
    while len(published) < count + 20 and not failures:
        stop.wait(0.01)
    stop.set()
    for one in threads:
        one.join()
    assert failures == []
    assert payloads + read_rest(connection, Position(position.sub)) == published


def test_an_open_publisher(connection, pgnotifier_dsn, version):
    """From version 1, an upgrade waits for a transaction that has published.

    If it takes long, nothing changes. Upgrades from later versions don't wait, unless the
    transaction has published a tick.
    """
    install_old(connection, version)
    with psycopg.connect(pgnotifier_dsn) as late:
        late.execute("SELECT setseed(0.5)")  # so this entry isn't a tick
        late.execute("SELECT pgnotifier.publish('orders', 'late')")
        if version == 1:
            wait_for(late, connection, pgnotifier_dsn)
        else:
            assert durable.install(connection) is True
            late.commit()
    assert durable.check(connection) == durable.VERSION
    assert read(connection, Position(positions.subscribe(connection, "a", "orders", "oldest"))) == [
        "late"
    ]


def wait_for(late, connection, dsn):
    """Upgrade from version 1, once while a transaction is open, and once until it has ended."""
    statements = durable.install_script(1).replace("'5s'", "'100ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable), connection.transaction():
        connection.execute(statements.encode())
    with pytest.raises(LogNotInstalledError, match="has version 1"):
        durable.check(connection)
    waiting = threading.Thread(target=upgrade_from_everywhere, args=(dsn,))
    waiting.start()
    waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'pgnotifier.log'::regclass"
    while not connection.execute(waits).fetchall():
        assert waiting.is_alive()
    late.commit()
    waiting.join()


@pytest.mark.slow
def test_a_publication_of_all_tables(connection, version):
    """Where all tables are published, the log is upgraded, installed, and set up all the same."""
    connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    for since in (version, 0):
        if since:
            durable.install(connection, since)
        assert durable.install(connection, retention=timedelta(days=7), quota=1 << 30)
        assert durable.install(connection, retention=timedelta(days=8))
        for keep in ("3 days", "4 days"):
            connection.execute("SELECT pgnotifier.keep_done(%s)", (keep,))
        durable.uninstall(connection)


def test_as_if_it_were_new(connection, roles, version):
    """After the upgrade, tables, functions and rights are those of a new installation."""
    (publisher, _), (listener, _) = roles
    install_old(connection, version)
    grant_old(connection, publisher, "publisher", version)
    grant_old(connection, listener, "listener", version)
    durable.install(connection)
    upgraded = set(connection.execute(CATALOG).fetchall())
    durable.uninstall(connection)
    durable.install(connection)
    durable.grant(connection, publisher, "publisher")
    durable.grant(connection, listener, "listener")
    fresh = set(connection.execute(CATALOG).fetchall())
    assert len(fresh) > 100
    assert upgraded ^ fresh == set()
