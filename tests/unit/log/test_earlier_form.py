"""Version 1 has had an earlier form, which read keys and payloads as text."""

from pathlib import Path

import psycopg
from psycopg import sql

from pgnotifier import durable
from pgnotifier._log import dead_letters, positions
from pgnotifier.durable import publish

FUNCTIONS = """
SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc
WHERE pronamespace = 'pgnotifier'::regnamespace ORDER BY 1
"""
EARLIER = Path(__file__).with_name("earlier_1.sql").read_text("ascii")


def test_an_upgrade(pgnotifier_dsn, make_role):
    """It becomes what a new installation is, with its entries, and rights of listeners."""
    role, its_dsn = make_role()
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        with connection.transaction():
            connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            connection.execute(EARLIER.encode())
        for statement in (
            "GRANT USAGE ON SCHEMA pgnotifier TO {}",
            "GRANT EXECUTE ON FUNCTION pgnotifier.hold(int) TO {}",
        ):
            connection.execute(sql.SQL(statement).format(sql.Identifier(role)))
        sub = positions.subscribe(connection, "sub", "orders")
        publish(connection, "orders", "kept")
        connection.execute(
            "SELECT pgnotifier.fail(%s, 1, now(), 'orders', 'k', 'failed', 'e', 't', 0.0, false)",
            (sub,),
        )
        assert durable.install(connection) is True
        (due,) = dead_letters.find_due(connection, sub, 10)
        assert (due.key, due.payload) == (b"k", b"failed")
        with psycopg.connect(its_dsn, autocommit=True) as session:
            read = (
                "SELECT payload FROM pgnotifier.read('orders', '1:1:', pgnotifier.snapshot(), 0, 9)"
            )
            assert connection.execute(read).fetchall() == [(b"kept",)]
            assert session.execute("SELECT count(*) FROM pgnotifier.due(0, 1, 1)").fetchone() == (
                0,
            )
        upgraded = connection.execute(FUNCTIONS).fetchall()
        durable.uninstall(connection)
        durable.install(connection)
        assert connection.execute(FUNCTIONS).fetchall() == upgraded
