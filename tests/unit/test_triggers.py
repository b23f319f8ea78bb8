"""`pgnotifier.triggers`: what can be declared, and triggers in the database."""

import psycopg
import pytest
import sqlalchemy
from psycopg import sql

from pgnotifier import durable, triggers
from pgnotifier.errors import ArgumentTypeError, ChannelNameError, TriggerError
from pgnotifier.triggers import Trigger


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        ({"channel": ""}, ChannelNameError, "must not be empty"),
        ({"channel": "x" * 64}, ChannelNameError, "63 at most"),
        ({"channel": "pgnotifier:celery:a"}, ChannelNameError, "reserved"),
        ({"on": []}, TriggerError, "on is empty"),
        ({"on": ["select"]}, TriggerError, "on has 'select'; it takes insert, update"),
        ({"on": "insert"}, ArgumentTypeError, "on must be a sequence"),
        ({"columns": "status"}, ArgumentTypeError, "columns must be a sequence"),
        ({"columns": ["a"], "on": ["insert"]}, TriggerError, "watched for updates"),
        ({"payload": "all"}, TriggerError, "payload is 'all'; it takes key, changed, full"),
        ({"per": "table"}, TriggerError, "per is 'table'"),
        ({"table": ""}, TriggerError, "isn't a name"),
        ({"schema": "a\0"}, TriggerError, "isn't a name"),
        ({"when": "\ud800"}, TriggerError, "isn't a name or a condition"),
        ({"key": [1]}, ArgumentTypeError, "must be a str"),
    ],
)
def test_what_makes_no_trigger(given, error, reason):
    """Arguments that make no trigger are refused before anything is executed."""
    with pytest.raises(error, match=reason):
        Trigger(**{"table": "orders", "channel": "orders", **given})


def test_names():
    """A trigger is named after its channel; a long name ends with a hash, and parts still fit."""
    assert Trigger("orders", "paid").name == "pgnotifier_paid"
    one, other = (Trigger("t", "é" * 31, name=f"{'x' * 70}{end}").name for end in "ab")
    assert one != other
    assert len(f"{one}_truncate".encode()) == 63
    assert len(Trigger("t", "é" * 31).name.encode()) <= 63


def test_events_are_in_one_order():
    """The order in which events are named doesn't matter."""
    one = Trigger("orders", "orders", on=["delete", "insert"])
    assert one == Trigger("orders", "orders", on=("insert", "delete", "insert"))
    assert one.options() == {"on": ["insert", "delete"]}


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection to a database with two tables."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        connection.execute('CREATE TABLE orders (id int PRIMARY KEY); CREATE SCHEMA "Shöp"')
        connection.execute('CREATE TABLE "Shöp"."My ""Table" (id int PRIMARY KEY)')
        yield connection


def test_create_list_drop(connection):
    """What is created is listed as it was declared, replaced by its name, and dropped."""
    given = Trigger(
        'My "Table', "a$'%\\\n", schema="Shöp", when="NEW.id > 0 -- $$ %", key=["id"], context=True
    )
    triggers.create(connection, given)
    (found,) = triggers.list(connection)
    assert found.trigger == given
    assert (found.enabled, found.made_by, found.on) == ("yes", "pgnotifier", triggers.EVENTS)
    other = Trigger('My "Table', "b", schema="Shöp", name=given.name, per="statement")
    triggers.create(connection, other)
    (found,) = triggers.list(connection)
    assert found.trigger == other
    assert triggers.drop(connection, other)
    assert not triggers.drop(connection, other)
    assert triggers.list(connection) == []
    assert functions(connection) == []


def functions(connection):
    """Return the names of the functions of triggers in the database."""
    return connection.execute(
        "SELECT proname FROM pg_proc WHERE prosrc LIKE '-- Made by pgnotifier%'"
    ).fetchall()


def test_creating_again_changes_nothing(connection):
    """A trigger that is there as it is declared stays, so that readers aren't locked out."""
    given = Trigger("orders", "orders", per="statement")
    find = "SELECT oid FROM pg_trigger ORDER BY oid"
    triggers.create(connection, given)
    before = connection.execute(find).fetchall()
    with connection.transaction():
        triggers.create(connection, given)
        held = "SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = %s::regclass"
        assert connection.execute(held, ["orders"]).fetchall() == []
    assert connection.execute(find).fetchall() == before
    connection.execute("DROP TRIGGER pgnotifier_orders_delete ON orders")
    triggers.create(connection, given)
    assert triggers.list(connection)[0].on == triggers.EVENTS


def test_disabled_triggers(connection):
    """A trigger that was disabled says so, and stays disabled when it is replaced."""
    triggers.create(connection, Trigger("orders", "orders", on=["insert"]))
    connection.execute("ALTER TABLE orders DISABLE TRIGGER pgnotifier_orders")
    triggers.create(connection, Trigger("orders", "orders", on=["update"]))
    (found,) = triggers.list(connection)
    assert (found.enabled, found.on) == ("no", ("update",))


def test_orphans(connection):
    """A function that is left of a dropped table is listed, dropped, and in nobody's way."""
    given = Trigger("orders", "orders")
    triggers.create(connection, given)
    connection.execute("DROP TABLE orders")
    (found,) = triggers.list(connection)
    assert (found.is_orphan, found.trigger, found.channel) == (True, None, "orders")
    connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    triggers.create(connection, given)
    connection.execute("INSERT INTO orders VALUES (1)")
    assert triggers.drop_orphans(connection) == ['"public"."pgnotifier_orders_orders"']
    (found,) = triggers.list(connection)
    assert found.trigger == Trigger("orders", "orders", schema="public")


def test_a_function_of_another_role(connection):
    """A function that has the name already is left alone, and so is one that looks like ours."""
    connection.execute("CREATE FUNCTION pgnotifier_orders_orders() RETURNS trigger LANGUAGE plpgsql"
                       " AS '-- Made by pgnotifier; `pgnotifier trigger` replaces and drops it.\n"
                       "-- name: 1\n-- [] \nBEGIN RETURN NULL; END';"
                       "CREATE ROLE trigger_stranger; ALTER FUNCTION pgnotifier_orders_orders()"
                       " OWNER TO trigger_stranger")  # fmt: skip
    try:
        triggers.create(connection, Trigger("orders", "orders"))
        assert len(functions(connection)) == 2
        assert {one.channel for one in triggers.list(connection)} == {"orders", None}
        assert triggers.drop(connection, Trigger("orders", "orders"))
        assert functions(connection) == [("pgnotifier_orders_orders",)]
    finally:
        connection.execute("DROP OWNED BY trigger_stranger; DROP ROLE trigger_stranger")


def test_a_trigger_of_somebody_else(connection):
    """A trigger that has the name already, and isn't ours, is never replaced."""
    connection.execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'")
    connection.execute(
        "CREATE TRIGGER pgnotifier_orders AFTER INSERT ON orders EXECUTE FUNCTION f()"
    )
    with pytest.raises(TriggerError, match="already exists"):
        triggers.create(connection, Trigger("orders", "orders"))
    assert not triggers.drop(connection, Trigger("orders", "orders"))


def test_rights(connection, pgnotifier_dsn):
    """A role without rights on the table gets the server's reason, in one line."""
    role = "trigger_" + connection.info.dbname
    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    try:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        with pytest.raises(TriggerError, match="permission denied for table orders"):
            triggers.create(connection, Trigger("orders", "orders"))
    finally:
        connection.execute(sql.SQL("RESET ROLE; DROP ROLE {}").format(sql.Identifier(role)))


def test_without_the_log(connection):
    """A durable trigger needs the log when it is created."""
    given = Trigger("orders", "orders", durable=True)
    with pytest.raises(TriggerError, match="Run: pgnotifier install"):
        triggers.create(connection, given)
    durable.install(connection)
    triggers.create(connection, given)
    assert triggers.list(connection)[0].durable


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_with_sqlalchemy(connection, driver):
    """Conditions and channels with colons and percent signs pass through SQLAlchemy unchanged."""
    pytest.importorskip(driver)  # the lowest versions are tested without psycopg2
    given = Trigger("orders", "a:b%s", when="NEW.id::text LIKE ':x%' OR true", schema="public")
    info = connection.info
    url = sqlalchemy.URL.create(
        f"postgresql+{driver}", info.user, None, info.host if info.host[0] != "/" else None,
        info.port, info.dbname, {"host": info.host} if info.host[0] == "/" else {},
    )  # fmt: skip
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.begin() as alchemy:
            triggers.create(alchemy, given)
            assert [one.trigger for one in triggers.list(alchemy)] == [given]
        with engine.begin() as alchemy, pytest.raises(TriggerError, match="no table"):
            triggers.create(alchemy, Trigger("nowhere", "orders"))
    finally:
        engine.dispose()
    assert triggers.list(connection)[0].trigger == given
