"""What publishers and listeners may do, and what they may not."""

from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from database import role
from log_position import Position
from psycopg.conninfo import make_conninfo

from pgnotifier import durable
from pgnotifier._log import positions
from pgnotifier.errors import LogRefusedError


@contextmanager
def session_of(log, make_role, part):
    """Yield a session of a new role with the rights of a part."""
    name, dsn = make_role()
    durable.grant(log.connection, name, part)
    with psycopg.connect(dsn, autocommit=True) as session:
        yield session


@pytest.fixture
def publisher(log, make_role):
    """Yield a session with the rights of a publisher."""
    with session_of(log, make_role, "publisher") as session:
        yield session


@pytest.fixture
def listener(log, make_role):
    """Yield a session with the rights of a listener."""
    with session_of(log, make_role, "listener") as session:
        yield session


@pytest.fixture(scope="module")
def sessions(pgnotifier_postgres, _database_with_log):
    """Yield sessions of five roles, in a database that many tests share.

    What is refused changes nothing. So these tests need no database of their own.
    """
    with ExitStack() as stack:
        dsn = stack.enter_context(pgnotifier_postgres.database(_database_with_log))
        owner = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        positions.subscribe(owner, "a", "orders")
        sessions = {}
        for part in ("publisher", "listener", "enqueuer", "worker", "stranger"):
            name = stack.enter_context(role(dsn))
            if part != "stranger":
                durable.grant(owner, name, part)
            session = psycopg.connect(make_conninfo(dsn, user=name), autocommit=True)
            sessions[part] = stack.enter_context(session)
        yield sessions


@pytest.fixture
def enqueuer(log, make_role):
    """Yield a session with the rights of an enqueuer."""
    with session_of(log, make_role, "enqueuer") as session:
        yield session


@pytest.fixture
def worker(log, make_role):
    """Yield a session with the rights of a worker."""
    with session_of(log, make_role, "worker") as session:
        yield session


@pytest.fixture
def stranger(log, make_role):
    """Yield a session without any rights."""
    _, dsn = make_role()
    with psycopg.connect(dsn, autocommit=True) as session:
        yield session


PUBLISHING = [
    "SELECT pgnotifier.publish('orders', '1')",
    "SELECT pgnotifier.publish('orders', '{}'::jsonb, 'key')",
    "INSERT INTO pgnotifier.log (channel, key, payload) VALUES ('orders', 'k', '1') RETURNING id",
    (
        "INSERT INTO pgnotifier.log (channel, payload) SELECT 'orders', n::text"
        " FROM generate_series(1, 5000) AS n"
    ),
]
READING = [
    "SELECT pgnotifier.subscribe('b', 'orders')",
    "SELECT pgnotifier.seek('a', 'orders', 'oldest')",
    "SELECT pgnotifier.forget('b', 'orders')",
    "SELECT pgnotifier.take(1)",
    "SELECT pgnotifier.batch('orders', '1:1:', '1:1:', 0, 1)",
    "SELECT pgnotifier.read('orders', '1:1:', '1:1:', 0, 1)",
    "SELECT pgnotifier.save(1, '1:1:')",
    "SELECT pgnotifier.note_reader('{1}', '{1}')",
    "SELECT pgnotifier.note_keys(1, '{low}', '{1}')",
    "SELECT pgnotifier.hold(1)",
    "SELECT pgnotifier.is_native(1, 1)",
    "SELECT pgnotifier.reclaim()",
    "SELECT pgnotifier.doze()",
    "SELECT pgnotifier.awake(false)",
    "SELECT pgnotifier.fail(1, 1, now(), 'orders', NULL, '1', 'error', NULL, 0, true)",
    "SELECT pgnotifier.due(1, 1)",
    "SELECT pgnotifier.fail_again(1, 'error', NULL, 0, true)",
    "SELECT pgnotifier.retry('{1}')",
    "SELECT pgnotifier.drop_failed('{1}')",
    "SELECT pgnotifier.count_waiting(1, 10)",
    "SELECT pgnotifier.list_outbox(1, 10)",
    "SELECT payload FROM pgnotifier.log",
    "SELECT * FROM pgnotifier.positions",
    "SELECT payload, error, traceback FROM pgnotifier.failed",
    "SELECT version FROM pgnotifier.installed",
]
OPENING = (
    "SELECT pgnotifier.open_outbox('outbox:celery:shop', 'pgnotifier:celery:default'),"
    " pgnotifier.open_outbox('outbox:rq:shop', 'pgnotifier:rq:default')"
)
ENQUEUING = [
    OPENING,
    "SELECT pgnotifier.enqueue('shop.tasks.invoice')",
    "SELECT pgnotifier.enqueue_job('shop.jobs.invoice')",
    "SELECT pgnotifier.may_enqueue()",
]
RESERVED = [
    "SELECT pgnotifier.publish('pgnotifier:celery:default', '1')",
    "SELECT pgnotifier.publish('pgnotifier:', '{}'::jsonb, 'key', notify => true)",
    (
        "INSERT INTO pgnotifier.log (channel, payload)"
        " SELECT 'pgnotifier:rq:' || n, '1' FROM generate_series(1, 3) AS n"
    ),
    "INSERT INTO pgnotifier.log (channel, payload) VALUES ('orders', '1'), ('pgnotifier:x', '2')",
]
"""What only an enqueuer may publish."""
DOING = ["SELECT pgnotifier.once('a')"]
GIVING_BACK = ["SELECT pgnotifier.reclaim_done()"]
REANCHOR = "SELECT pgnotifier.reanchor()"
OWNING = [
    "DELETE FROM pgnotifier.log",
    "UPDATE pgnotifier.log SET payload = 'other'",
    "TRUNCATE pgnotifier.log",
    "TRUNCATE pgnotifier.log_0",
    "SELECT * FROM pgnotifier.done",
    "INSERT INTO pgnotifier.done (slot, id) VALUES (0, 'a')",
    "DELETE FROM pgnotifier.done",
    "TRUNCATE pgnotifier.done_0",
    "LOCK TABLE pgnotifier.done IN ACCESS SHARE MODE",
    "SELECT FROM pgnotifier.done_keep FOR UPDATE",
    "UPDATE pgnotifier.done_keep SET keep = '1 second'",
    "SELECT pgnotifier.keep_done('1 second')",
    "UPDATE pgnotifier.done_slots SET quiet_at = '2020-01-01'",
    "SELECT setval('pgnotifier.done_slot', 1)",
    "LOCK TABLE pgnotifier.log IN ACCESS EXCLUSIVE MODE",
    "LOCK TABLE pgnotifier.log_0 IN SHARE MODE",
    "LOCK TABLE pgnotifier.installed IN EXCLUSIVE MODE",
    "LOCK TABLE pgnotifier.subscription IN EXCLUSIVE MODE",
    "SELECT FROM pgnotifier.installed FOR UPDATE",
    "SELECT FROM pgnotifier.subscription FOR UPDATE",
    "DELETE FROM pgnotifier.subscription",
    "INSERT INTO pgnotifier.position (sub, done, id_hi) VALUES (1, '1:1:', 0)",
    "DELETE FROM pgnotifier.failed",
    "DROP SCHEMA pgnotifier CASCADE",
    "CREATE FUNCTION pgnotifier.publish(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE pgnotifier.more (n int)",
    "ALTER TABLE pgnotifier.log ADD COLUMN more int",
    "CREATE TRIGGER t AFTER INSERT ON pgnotifier.log EXECUTE FUNCTION pgnotifier.publish()",
    "CREATE RULE r AS ON INSERT TO pgnotifier.log DO ALSO NOTIFY x",
    "CREATE INDEX ON pgnotifier.log (at)",
    "SELECT setval('pgnotifier.bell', 1)",
    "SELECT nextval('pgnotifier.bell')",
    "SELECT setval('pgnotifier.slot', 9)",
    "SELECT setval('pgnotifier.log_id_seq', 1)",
    "SELECT nextval('pgnotifier.log_id_seq')",
    "ALTER SEQUENCE pgnotifier.log_id_seq RESTART",
    "INSERT INTO pgnotifier.log_0 (channel, payload) VALUES ('orders', '1')",
]
"""What only the owner may do, or nobody."""
FORGING = [
    "INSERT INTO pgnotifier.log (channel, payload, xid) VALUES ('orders', '1', '3')",
    (
        "INSERT INTO pgnotifier.log (channel, payload, id) OVERRIDING SYSTEM VALUE"
        " VALUES ('orders', '1', 1)"
    ),
    "INSERT INTO pgnotifier.log (channel, payload, at) VALUES ('orders', '1', now())",
    "INSERT INTO pgnotifier.log (channel, payload, slot) VALUES ('orders', '1', 3)",
    "INSERT INTO pgnotifier.log (channel, payload, snap) VALUES ('orders', '1', '9:9:')",
    "INSERT INTO pgnotifier.log (channel, payload) VALUES ('orders', '1') RETURNING payload",
    "INSERT INTO pgnotifier.log (channel, payload) VALUES ('orders', '1') RETURNING *",
]
"""What a publisher could forge, or read, if its rights were those to the whole table."""


def refused(session, statement):
    """Return whether a statement is refused for want of rights; undo it if it isn't."""
    try:
        with session.transaction(force_rollback=True):
            session.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


@pytest.mark.parametrize("statement", PUBLISHING)
def test_publishers_publish(log, publisher, statement):
    """A publisher may publish, in each of the ways, while readers sleep and while they don't."""
    publisher.execute(statement)
    log.execute("SELECT pgnotifier.doze()")
    publisher.execute(statement)
    assert log.count() >= 2


def test_publishers_copy(log, publisher):
    """A publisher may publish with COPY."""
    with publisher.cursor().copy("COPY pgnotifier.log (channel, key, payload) FROM STDIN") as copy:
        copy.write_row(("orders", None, "1"))
    assert log.count() == 1


@pytest.mark.parametrize("statement", [*READING, REANCHOR, *DOING, *GIVING_BACK, *OWNING, *FORGING])
def test_publishers_may_not(sessions, statement):
    """A publisher may neither read anything, nor move, lock, change or forge anything."""
    assert refused(sessions["publisher"], statement)


@pytest.mark.parametrize("statement", ENQUEUING)
def test_publishers_may_not_enqueue(log, publisher, listener, stranger, statement):
    """Neither a publisher nor a listener may enqueue tasks, or open outboxes."""
    log.execute(OPENING)
    for session in (publisher, listener, stranger):
        assert refused(session, statement)
    assert log.count() == 0


@pytest.mark.parametrize("statement", RESERVED)
def test_reserved_channels(log, publisher, enqueuer, statement):
    """On the channel of an outbox, an enqueuer publishes, and a publisher's transaction fails."""
    with pytest.raises(psycopg.errors.CheckViolation, match="channel_reserved"):
        publisher.execute(statement)
    assert log.count() == 0
    enqueuer.execute(statement)
    log.execute(statement)  # the owner
    assert log.count() >= 2


def test_reserved_channels_and_copy(log, publisher, enqueuer):
    """COPY is checked as well."""
    copy_from = "COPY pgnotifier.log (channel, payload) FROM STDIN"
    with (
        pytest.raises(psycopg.errors.CheckViolation, match="channel_reserved"),
        publisher.cursor().copy(copy_from) as copy,
    ):
        copy.write_row(("pgnotifier:celery:default", "1"))
    with enqueuer.cursor().copy(copy_from) as copy:
        copy.write_row(("pgnotifier:celery:default", "1"))
    assert log.count() == 1


def test_a_prepared_statement_is_checked_each_time(log, publisher):
    """A right that is granted, or taken away, counts at once; also for a prepared statement."""
    insert = "INSERT INTO pgnotifier.log (channel, payload) VALUES (%s, 'x')"
    role = publisher.info.user

    def publish():
        publisher.execute(insert, ("pgnotifier:rq:default",), prepare=True)

    publisher.execute(insert, ("orders",), prepare=True)
    with pytest.raises(psycopg.errors.CheckViolation):
        publish()
    log.execute(f"GRANT EXECUTE ON FUNCTION pgnotifier.may_enqueue() TO {role}")
    publish()
    log.execute(f"REVOKE EXECUTE ON FUNCTION pgnotifier.may_enqueue() FROM {role}")
    with pytest.raises(psycopg.errors.CheckViolation):
        publish()


@pytest.mark.parametrize(
    "column",
    [
        "CREATE TEMP TABLE own (channel pgnotifier.entry_channel)",
        "CREATE TEMP TABLE own AS SELECT 'orders'::pgnotifier.entry_channel AS channel",
        "CREATE TYPE pg_temp.own AS (channel pgnotifier.entry_channel)",
        "CREATE DOMAIN pg_temp.own AS pgnotifier.entry_channel",
        "CREATE TEMP TABLE own (channels pgnotifier.entry_channel[])",
        "CREATE TEMP TABLE own (entry pgnotifier.log)",
        "CREATE TEMP TABLE own (entries pgnotifier.log_0[])",
        "CREATE TYPE pg_temp.own AS (entry pgnotifier.log_7)",
    ],
)
def test_nobody_else_keeps_checked_names(log, publisher, enqueuer, column):
    """No role can keep a channel's name as one that was checked, and publish it later."""
    for session in (publisher, enqueuer):
        assert refused(session, column)


def test_ranges_of_names_are_checked(log, publisher):
    """PostgreSQL 14 lets everybody make ranges of any type. A name is checked to become part of it.

    So are the elements of an array.
    """
    log.execute("CREATE TYPE public.own AS RANGE (subtype = pgnotifier.entry_channel)")
    publisher.execute("SELECT public.own('orders', NULL)")
    for value in (
        "public.own('pgnotifier:x', NULL)",
        "'{pgnotifier:x}'::pgnotifier.entry_channel[]",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="channel_reserved"):
            publisher.execute(f"SELECT {value}")


@pytest.mark.parametrize(
    "kept",
    [
        "CREATE TABLE own.kept (channel pgnotifier.entry_channel)",
        "CREATE TABLE own.kept (channels pgnotifier.entry_channel[])",
        "CREATE TYPE own.kept AS (channel pgnotifier.entry_channel)",
        "CREATE TYPE own.kept AS RANGE (subtype = pgnotifier.entry_channel)",
        "CREATE TABLE own.kept (entry pgnotifier.log)",
        "CREATE TABLE own.kept (entries pgnotifier.log_0[])",
        "CREATE TYPE own.kept AS (entry pgnotifier.log)",
    ],
)
def test_names_that_were_kept_before(pgnotifier_dsn, make_role, kept):
    """The upgrade fails if somebody has kept names from before they were checked, and says where.

    Views are allowed: they keep nothing.
    """
    name, dsn = make_role()
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as owner:
        durable.install(owner, 2)
        durable.grant(owner, name, "publisher")
        owner.execute("CREATE VIEW names AS SELECT channel FROM pgnotifier.log")
        owner.execute(f"CREATE SCHEMA own AUTHORIZATION {name}".encode())
        with psycopg.connect(dsn, autocommit=True) as publisher:
            publisher.execute(kept.encode())
            with pytest.raises(
                LogRefusedError, match=r"own\.kept uses pgnotifier\.(entry_channel|log)"
            ):
                durable.install(owner)
            drop = "DROP TABLE own.kept" if "TABLE" in kept else "DROP TYPE own.kept"
            publisher.execute(drop.encode())
        assert durable.install(owner) is True


def test_enqueuers_enqueue(log, enqueuer):
    """An enqueuer may do all that a publisher may, open outboxes, and enqueue."""
    for statement in (*PUBLISHING, *ENQUEUING):
        enqueuer.execute(statement)
    assert log.execute("SELECT channel FROM pgnotifier.log WHERE channel ~ '^pgn' ORDER BY id") == [
        ("pgnotifier:celery:default",),
        ("pgnotifier:rq:default",),
    ]


@pytest.mark.parametrize("statement", [*READING, REANCHOR, *OWNING, *FORGING])
def test_enqueuers_may_not(sessions, statement):
    """An enqueuer may neither read anything, nor move, lock, change or forge anything."""
    assert refused(sessions["enqueuer"], statement)


def test_one_function_alone(log, stranger):
    """A role that may execute `enqueue` alone enqueues tasks, and can't publish messages."""
    log.execute(OPENING)
    role = stranger.info.user
    log.execute(f"GRANT USAGE ON SCHEMA pgnotifier TO {role}")
    log.execute(f"GRANT EXECUTE ON FUNCTION pgnotifier.enqueue TO {role}")
    stranger.execute("SELECT pgnotifier.enqueue('shop.tasks.invoice', '[7]')")
    for statement in (*PUBLISHING, *READING, *RESERVED, *ENQUEUING[2:], OPENING):
        assert refused(stranger, statement)
    assert log.count() == 1


def test_a_function_of_the_owner(log, publisher):
    """A function with SECURITY DEFINER has the rights of its owner: that is how to allow one."""
    log.execute(
        "CREATE FUNCTION public.only_this() RETURNS bigint LANGUAGE sql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp"
        " AS $$ SELECT pgnotifier.publish('pgnotifier:celery:default', '{}') $$"
    )
    publisher.execute("SELECT public.only_this()")
    assert log.count() == 1


@pytest.mark.parametrize("statement", [*READING, *GIVING_BACK])
def test_listeners_read(log, listener, statement):
    """A listener may read everything, and move positions."""
    log.subscribe("a")
    listener.execute(statement)


def test_listeners_reanchor(log, listener):
    """A listener may repair positions that were copied."""
    listener.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with listener.transaction():
        listener.execute(REANCHOR)


@pytest.mark.parametrize("statement", [*PUBLISHING, *DOING, *OWNING, *FORGING])
def test_listeners_may_not(sessions, statement):
    """A listener may neither publish, nor note what is done, nor change or lock tables."""
    assert refused(sessions["listener"], statement)


@pytest.mark.parametrize("statement", [*DOING, *GIVING_BACK])
def test_workers_do(log, worker, statement):
    """A worker may note what it has done, and give space back."""
    worker.execute(statement)


@pytest.mark.parametrize("statement", [*PUBLISHING, *READING, REANCHOR, *OWNING, *FORGING])
def test_workers_may_not(sessions, statement):
    """A worker may do nothing else: it can't see or take back what others have done."""
    assert refused(sessions["worker"], statement)


@pytest.mark.parametrize(
    "statement", [*PUBLISHING, *READING, REANCHOR, *DOING, *GIVING_BACK, *OWNING, *FORGING]
)
def test_strangers_may_not(sessions, statement):
    """Other roles may do nothing at all."""
    assert refused(sessions["stranger"], statement)


def test_a_listener_that_relays(log, listener, enqueuer):
    """The rights of a listener are all that reading an outbox takes."""
    enqueuer.execute(OPENING)
    enqueuer.execute("SELECT pgnotifier.enqueue('shop.tasks.invoice')")
    name, channel = "outbox:celery:shop", "pgnotifier:celery:default"
    position = Position(positions.subscribe(listener, name, channel))
    with listener.transaction():
        reading = position.read(listener, 10)
        position.save(listener, reading)
    assert len(reading.entries) == 1


def test_a_listener_that_reads(log, listener):
    """The rights of a listener are all that reading takes."""
    position = Position(positions.subscribe(listener, "a", "orders"))
    log.publish("orders", "1")
    with listener.transaction():
        reading = position.read(listener, 10)
        position.save(listener, reading)
    assert [one.payload for one in reading.entries] == ["1"]


def test_locks_of_publishers_stop_nobody(log, publisher, listener):
    """A publisher that holds the advisory locks of the log delays nobody by more than moments."""
    publisher.execute("SELECT pg_advisory_lock(1885957742, 0), pg_advisory_lock(1885957742)")
    assert listener.execute("SELECT pgnotifier.doze()").fetchone() == (False,)
    listener.execute("LISTEN pgnotifier_wake")
    log.publish("orders", "1")
    assert [one.channel for one in listener.notifies(timeout=60, stop_after=1)] == [
        "pgnotifier_wake"
    ]
    listener.execute("SELECT pgnotifier.awake(false)")
    position = log.subscribe(start="oldest")
    assert log.read_all(position) == ["1"]


def test_a_publisher_can_not_hold_a_subscription(log, publisher, listener, make_role):
    """The lock by which a listener holds a subscription is of no use to a publisher."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "listener")
    hold = "SELECT pgnotifier.hold(1)"
    publisher.execute("SELECT pg_advisory_lock(1885957742, 1)")
    assert listener.execute(hold).fetchone() == (True,)
    publisher.execute("SELECT pg_advisory_unlock_all()")
    assert listener.execute(hold).fetchone() == (True,)
    with psycopg.connect(dsn, autocommit=True) as other:
        assert other.execute(hold).fetchone() == (False,)
        listener.execute("SELECT pg_advisory_unlock(1885957742, 1)")
        assert other.execute(hold).fetchone() == (True,)


def test_a_listener_by_set_role(log, make_role, listener):
    """A session that has a listener's rights by SET ROLE alone holds what it has locked."""
    hold = "SELECT pgnotifier.hold(1)"
    name, dsn = make_role()
    log.execute(f'ALTER ROLE "{name}" NOINHERIT')
    log.execute(f'GRANT "{listener.info.user}" TO "{name}"')
    with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn, autocommit=True) as two:
        for session in (one, two):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(hold)
            session.execute(f'SET ROLE "{listener.info.user}"')
        assert one.execute(hold).fetchone() == (True,)
        assert two.execute(hold).fetchone() == (False,)
        assert listener.execute(hold).fetchone() == (False,)


def test_names_of_publishers_are_not_executed(log, publisher, listener):
    """Objects of a publisher's own, first in everybody's search_path, aren't used by the log."""
    log.execute("GRANT CREATE ON SCHEMA public TO public")
    publisher.execute("CREATE TABLE public.trapped (who text)")
    publisher.execute("GRANT ALL ON public.trapped TO public")
    for signature, returns, value in [
        ("pg_current_snapshot()", "pg_snapshot", "'1:1:'"),
        ("pg_snapshot_xmax(pg_snapshot)", "xid8", "'1'"),
        ("pg_visible_in_snapshot(xid8, pg_snapshot)", "boolean", "true"),
        ("clock_timestamp()", "timestamptz", "NULL"),
        ("random()", "float8", "0"),
    ]:
        publisher.execute(
            f"CREATE FUNCTION public.{signature} RETURNS {returns} LANGUAGE plpgsql AS $$ BEGIN"
            f" INSERT INTO public.trapped VALUES (current_user); RETURN {value}; END $$"
        )
    for session in (publisher, listener, log.connection):
        session.execute("SET search_path = public, pg_catalog")
    sub = positions.subscribe(listener, "a", "orders")
    publisher.execute(PUBLISHING[0])
    publisher.execute(PUBLISHING[-1])
    with listener.transaction():
        assert Position(sub).read(listener, 10_000).entries
    listener.execute("SELECT pgnotifier.reclaim('0', 1)")
    assert log.count("log") == 5001
    assert log.execute("SELECT count(*) FROM public.trapped") == [(0,)]


def test_default_privileges_of_the_owner(pgnotifier_dsn, make_role):
    """What a role gets by default on new tables of the owner, it doesn't get on the log."""
    web, dsn = make_role()
    defaults = "SELECT defaclobjtype, defaclacl::text FROM pg_default_acl ORDER BY 1"
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as owner:
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS", "SCHEMAS"):
            grant = f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {web} WITH GRANT OPTION"
            owner.execute(grant.encode())
        owner.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        before = owner.execute(defaults).fetchall()
        try:
            durable.install(owner)
            durable.grant(owner, web, "publisher")
            assert owner.execute(defaults).fetchall() == before
            owner.execute("SELECT pgnotifier.subscribe('a', 'orders')")
            with psycopg.connect(dsn, autocommit=True) as session:
                session.execute("SELECT pgnotifier.publish('orders', 'secret')")
                for query in (*READING, *OWNING, REANCHOR, "CREATE TABLE pgnotifier.t ()"):
                    with (
                        pytest.raises(psycopg.errors.InsufficientPrivilege),
                        session.transaction(),
                    ):
                        session.execute(query.encode())
            owner.execute("CREATE TABLE later ()")
            privilege = "SELECT has_table_privilege(%s, 'later', 'DELETE')"
            assert owner.execute(privilege, (web,)).fetchone() == (True,)
        finally:
            owner.execute(f"DROP OWNED BY {web}".encode())
            owner.execute("ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC")
