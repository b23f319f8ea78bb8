"""`pgnotifier.publish(…, notify => true)`: which notifications it sends, to whom, and for whom."""

import psycopg
import pytest
from psycopg import sql

from pgnotifier import durable
from pgnotifier._log import installing
from pgnotifier.errors import LogNotInstalledError, LogRefusedError

CHANNELS = ("orders", "ü\"' ", "pgnotifier_reference", "pgnotifier_published")
MOST = 7999


@pytest.fixture
def listen(log):
    """Return a function that returns what a session has received since, as channel and payload."""
    session = log.connect()
    for name in CHANNELS:
        session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(name)))

    def received():
        session.execute("NOTIFY orders, 'the end'")
        found = [(one.channel, one.payload) for one in session.notifies(timeout=60, stop_after=1)]
        while found[-1] != ("orders", "the end"):
            found += [
                (one.channel, one.payload) for one in session.notifies(timeout=60, stop_after=1)
            ]
        return found[:-1]

    yield received
    session.close()


def publish(connection, channel, payload, notify=True):
    """Publish; return the id."""
    return connection.execute(
        "SELECT pgnotifier.publish(%s, %s::text, notify => %s)", (channel, payload, notify)
    ).fetchone()[0]


def test_by_default_nobody_is_notified(log, listen):
    """Without `notify`, volatile listeners get nothing; null counts as false."""
    log.execute("SELECT pgnotifier.publish('orders', '1')")
    publish(log.connection, "orders", "2", notify=False)
    publish(log.connection, "orders", "3", notify=None)
    assert listen() == []
    assert log.count() == 3


@pytest.mark.parametrize("payload", ["", "1", "it's \\ %s %L \n ü😀", "x" * MOST, "ü" * 3999 + "x"])
def test_the_payload_itself(log, listen, payload):
    """A payload of up to 7,999 bytes is sent as it is, whatever its characters and the channel's.

    What announces it comes first.
    """
    for channel in CHANNELS[:2]:
        publish(log.connection, channel, payload)
    expected = [("pgnotifier_published", "orders"), ("orders", payload)]
    expected += [("pgnotifier_published", CHANNELS[1]), (CHANNELS[1], payload)]
    assert listen() == expected


@pytest.mark.parametrize("payload", ["x" * (MOST + 1), "ü" * 4000])
def test_a_reference(log, listen, payload):
    """A longer one is sent as a reference: the entry's transaction, its id, and the channel."""
    entry = publish(log.connection, CHANNELS[1], payload)
    ((xid,),) = log.execute("SELECT xid::text FROM pgnotifier.log")
    assert listen() == [("pgnotifier_reference", f"{xid} {entry} {CHANNELS[1]}")]


def test_json(log, listen):
    """A jsonb is sent as its text, with the key as third argument or by name."""
    log.execute("SELECT pgnotifier.publish('orders', '{\"a\": 1}'::jsonb, 'k', true)")
    log.execute("SELECT pgnotifier.publish('orders', '[2]'::jsonb, notify => true)")
    assert [payload for name, payload in listen() if name == "orders"] == ['{"a": 1}', "[2]"]
    assert log.execute("SELECT key FROM pgnotifier.log ORDER BY id") == [("k",), (None,)]


def test_in_the_transaction(log, listen):
    """Listeners get what is committed; what is rolled back, to a savepoint as well, they don't.

    Equal payloads of a transaction become one notification; the log has them all.
    """
    with log.connection.transaction():
        publish(log.connection, "orders", "1")
        with log.connection.transaction(force_rollback=True):
            publish(log.connection, "orders", "undone")
            publish(log.connection, "orders", "x" * 8000)
        publish(log.connection, "orders", "2")
        publish(log.connection, "orders", "1")
    with log.connection.transaction(force_rollback=True):
        publish(log.connection, "orders", "undone")
    assert listen() == [
        ("pgnotifier_published", "orders"),
        ("orders", "1"),
        ("orders", "2"),
    ]
    assert log.count() == 3


def test_without_the_right_to_call_pg_notify(log, listen, make_role):
    """A publisher needs no right to call pg_notify(), which some administrators revoke."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "publisher")
    log.execute("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC")
    with psycopg.connect(dsn, autocommit=True) as publisher:
        publish(publisher, "orders", "1")
        publish(publisher, "orders", "x" * 8000)
    assert [name for name, _ in listen()] == [
        "pgnotifier_published",
        "orders",
        "pgnotifier_reference",
    ]


# --- the upgrade from version 1 ---


@pytest.fixture
def old(pgnotifier_dsn):
    """Yield a session in a database with version 1 of the log."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(installing.script(0, 1).encode())
        yield connection


OLD_CALLS = (
    "SELECT pgnotifier.publish('orders')",
    "SELECT pgnotifier.publish('orders', '1')",
    "SELECT pgnotifier.publish('orders', '1', 'k')",
    "SELECT pgnotifier.publish('orders', '1', NULL)",
    "SELECT pgnotifier.publish('orders', '[1]'::jsonb)",
    "SELECT pgnotifier.publish('orders', '[1]'::jsonb, 'k')",
    "SELECT pgnotifier.publish(channel => 'orders', key => 'k')",
    "SELECT pgnotifier.publish(key => 'k', payload => '1', channel => 'orders')",
)


def test_upgrading_keeps_rights_and_entries(old, make_role):
    """Roles that could publish still can, and can notify; others still can't; nothing is lost."""
    (publisher, its_dsn), (grantor, _), (stranger, other_dsn) = (make_role() for _ in range(3))
    for statement in (
        "GRANT USAGE ON SCHEMA pgnotifier TO {0}, {1}, {2}",
        "GRANT INSERT (channel, key, payload), SELECT (id) ON pgnotifier.log TO {0}, {1}",
        "GRANT SELECT ON SEQUENCE pgnotifier.bell, pgnotifier.slot TO {0}, {1}",
        "GRANT EXECUTE ON FUNCTION pgnotifier.publish(text, text, text) TO {0}",
        "GRANT EXECUTE ON FUNCTION pgnotifier.publish(text, jsonb, text) TO {0}",
        "GRANT EXECUTE ON FUNCTION pgnotifier.ring(), pgnotifier.snapshot() TO {0}",
        "GRANT EXECUTE ON FUNCTION pgnotifier.publish(text, text, text) TO {1} WITH GRANT OPTION",
    ):
        names = [sql.Identifier(one) for one in (publisher, grantor, stranger)]
        old.execute(sql.SQL(statement).format(*names))
    old.execute("SELECT pgnotifier.publish('orders', 'before')")
    assert durable.install(old) is True
    assert durable.check(old) == durable.VERSION
    with psycopg.connect(its_dsn, autocommit=True) as session:
        for call in OLD_CALLS:
            session.execute(call)
        session.execute("SELECT pgnotifier.publish('orders', '1', notify => true)")
        session.execute("SELECT pgnotifier.publish('orders', '[1]'::jsonb, 'k', true)")
    with (
        psycopg.connect(other_dsn, autocommit=True) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute(OLD_CALLS[0])
    assert old.execute("SELECT count(*) FROM pgnotifier.log").fetchone() == (3 + len(OLD_CALLS),)
    right = "SELECT has_function_privilege(%s, 'pgnotifier.publish(text, {}, text, boolean)', %s)"
    for kind, privilege, expected in (
        ("text", "EXECUTE WITH GRANT OPTION", True),
        ("jsonb", "EXECUTE", False),
    ):
        assert old.execute(right.format(kind), (grantor, privilege)).fetchone() == (expected,)


def test_upgrading_under_a_prepared_statement(old):
    """A session that has prepared a call of the old function goes on with the new one."""
    with psycopg.connect(old.info.dsn, autocommit=True) as session:
        session.execute("PREPARE call AS SELECT pgnotifier.publish($1, $2)")
        session.execute("EXECUTE call('orders', '1')")
        durable.install(old)
        session.execute("EXECUTE call('orders', '2')")
    assert old.execute("SELECT count(*) FROM pgnotifier.log").fetchone() == (2,)


def test_publishing_before_the_upgrade(old):
    """The new program publishes into the old log; what that lacks is reported as such."""
    durable.publish(old, "orders", 1)
    with pytest.raises(LogNotInstalledError, match="or an old one"):
        durable.publish(old, "orders", 1, notify=True)


def test_what_depends_on_the_old_function(old):
    """If something of the user's own depends on the old function, the upgrade changes nothing."""
    old.execute("CREATE VIEW public.publishing AS SELECT pgnotifier.publish('orders') AS id")
    with pytest.raises(LogRefusedError, match="other objects depend on"):
        durable.install(old)
    assert old.execute("SELECT version FROM pgnotifier.installed").fetchone() == (1,)
    old.execute("DROP VIEW public.publishing")
    assert durable.install(old) is True
