"""Limits of sizes: the same after an upgrade from version 1, with what was there before."""

from importlib.resources import files

import psycopg
import pytest
from log_position import Position
from psycopg import sql

from pgnotifier import durable
from pgnotifier._log import positions
from pgnotifier.errors import LogRefusedError

REPEATED = (
    "INSERT INTO pgnotifier.log (channel, key, payload)"
    " VALUES (%s, %s, pg_catalog.repeat(%s, %s)) RETURNING id"
)
PUBLISH = "INSERT INTO pgnotifier.log (channel, key, payload) VALUES (%s, %s, %s) RETURNING id"
GRANTS = """
GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT INSERT (channel, key, payload), SELECT (id) ON pgnotifier.log TO {role};
GRANT SELECT ON SEQUENCE pgnotifier.bell, pgnotifier.slot TO {role};
GRANT EXECUTE ON FUNCTION pgnotifier.ring(), pgnotifier.snapshot() TO {role};
"""


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection to a database with version 1 of the log."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        script = files("pgnotifier._log").joinpath("schema", "1.sql").read_text("ascii")
        with connection.transaction():
            connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            connection.execute(script.encode())
        yield connection


@pytest.fixture
def publisher(connection, make_role):
    """Yield a session with the rights that version 1 gives to publishers."""
    name, dsn = make_role()
    connection.execute(sql.SQL(GRANTS).format(role=sql.Identifier(name)))
    with psycopg.connect(dsn, autocommit=True) as session:
        yield session


def test_an_upgrade_keeps_entries_and_rights(connection, publisher):
    """Entries, positions, rights and prepared statements of publishers survive the upgrade."""
    large = "€" * 1_000_000
    position = Position(positions.subscribe(connection, "sub", "orders", "oldest"))
    for payload in ("before", large):
        publisher.execute(PUBLISH, ("orders", "a key", payload), prepare=True)
    assert durable.install(connection) is True
    publisher.execute(PUBLISH, ("orders", None, "after"), prepare=True)
    publisher.execute(PUBLISH, ("orders", "another", "afterwards"), prepare=False)
    with connection.transaction():
        found = position.read(connection, 10).entries
    assert [(one.key, one.payload) for one in found] == [
        ("a key", "before"),
        ("a key", large),
        (None, "after"),
        ("another", "afterwards"),
    ]


@pytest.mark.parametrize("upgrades", [False, True])
@pytest.mark.parametrize("prepares", [False, True])
@pytest.mark.parametrize(
    ("entry", "constraint"),
    [
        (("", None, "x", 1), "channel_size"),
        (("€" * 21 + "x", None, "x", 1), "channel_size"),
        (("orders", "k" * 1025, "x", 1), "key_size"),
        pytest.param(("orders", None, "x", 67_108_865), "payload_size", marks=pytest.mark.slow),
    ],
)
def test_sizes_are_limited(connection, publisher, entry, constraint, upgrades, prepares):
    """What version 1 refuses, later versions refuse by the same name; what it takes, they take."""
    taken = ("€" * 21, "k" * 1024, "x", 1)
    publisher.execute(REPEATED, taken, prepare=prepares)
    if upgrades:
        durable.install(connection)
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        publisher.execute(REPEATED, entry, prepare=prepares)
    publisher.execute(REPEATED, taken, prepare=prepares)


@pytest.mark.slow
def test_an_upgrade_does_not_hold_up_publishers_for_long(connection, publisher):
    """While a transaction has published, the upgrade fails after seconds; later it succeeds."""
    with publisher.transaction():
        publisher.execute(PUBLISH, ("orders", None, "x"))
        with pytest.raises(LogRefusedError, match="lock timeout"):
            durable.install(connection)
        publisher.execute(PUBLISH, ("orders", None, "y"))
    assert durable.install(connection) is True
    publisher.execute(PUBLISH, ("orders", None, "z"))
