"""`Databases`, which lends databases to tests."""

from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgnotifier.testing.databases import EXACT_STATISTICS, Databases


@pytest.fixture
def databases(pgnotifier_postgres):
    with closing(Databases(pgnotifier_postgres)) as databases:
        yield databases


def run(dsn, statement):
    """Run a statement, and return the oid of the database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)
        query = "SELECT oid FROM pg_database WHERE datname = current_database()"
        return connection.execute(query).fetchone()[0]


def of_this(clause):
    """Return a statement that executes a clause on the database that it is run in."""
    return f"DO $do$ BEGIN EXECUTE format($${clause}$$, current_database()); END $do$"


@pytest.mark.parametrize("statement", ["SELECT pg_notify('a', 'b')", "LISTEN a", "CHECKPOINT"])
def test_one_that_nothing_was_written_to_serves_again(databases, pgnotifier_postgres, statement):
    """A database that nothing was written to is lent again, under another name."""
    with psycopg.connect(pgnotifier_postgres.dsn) as connection:
        if connection.info.server_version < EXACT_STATISTICS:
            pytest.skip("this version's counters aren't exact")
    with databases.lend() as first:
        oid = run(first, statement)
    with databases.lend() as second:
        assert run(second, "SELECT 1") == oid
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(first)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t ()",
        "CREATE TEMPORARY TABLE t ()",
        "DO $$ BEGIN CREATE TABLE t (); RAISE division_by_zero; EXCEPTION WHEN others THEN END $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "GRANT CREATE ON SCHEMA public TO public",
        "COMMENT ON SCHEMA public IS 'mine'",
        "SELECT lo_create(0)",
        "ANALYZE pg_class",
        of_this("ALTER DATABASE %I SET work_mem = '1MB'"),
        of_this("ALTER ROLE CURRENT_USER IN DATABASE %I SET work_mem = '1MB'"),
        of_this("ALTER DATABASE %I CONNECTION LIMIT 3"),
        of_this("REVOKE CONNECT ON DATABASE %I FROM public"),
    ],
)
def test_one_that_was_changed_is_dropped(databases, statement):
    """A database that was changed in any way isn't lent again."""
    with databases.lend() as first:
        oid = run(first, statement)
    with databases.lend() as second:
        assert run(second, "SELECT 1") != oid


def test_sessions_end(databases):
    """Sessions that a test leaves open are terminated, and their locks are released."""
    with databases.lend() as dsn:
        left = psycopg.connect(dsn)
        left.execute("SELECT pg_advisory_lock(1)")
    with databases.lend() as dsn, psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT pg_try_advisory_lock(1)").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError):
        left.execute("SELECT 1")
    left.close()


def test_two_at_once(databases):
    """Two databases that are lent at the same time differ, even if they are lent again later."""
    with databases.lend() as first, databases.lend() as second:
        assert run(first, "SELECT 1") != run(second, "SELECT 1")
    with databases.lend() as first, databases.lend() as second:
        assert run(first, "SELECT 1") != run(second, "SELECT 1")


def test_none_is_left(databases, pgnotifier_postgres):
    """`close()` drops all databases that were lent."""
    names = []
    for _ in range(3):
        with databases.lend() as dsn, databases.lend() as other:
            names += [conninfo_to_dict(dsn)["dbname"], conninfo_to_dict(other)["dbname"]]
    databases.close()
    with psycopg.connect(pgnotifier_postgres.dsn) as connection:
        query = "SELECT count(*) FROM pg_database WHERE datname = ANY(%s)"
        assert connection.execute(query, [names]).fetchone() == (0,)


@pytest.mark.servers
def test_a_crash_of_the_server(pgnotifier_private_postgres):
    """A crash resets the counters that would show a change, and so the database is dropped."""
    with closing(Databases(pgnotifier_private_postgres)) as databases:
        with databases.lend() as first:
            oid = run(first, "CREATE TABLE t ()")
            pgnotifier_private_postgres.kill()
            pgnotifier_private_postgres.start()
        with databases.lend() as second:
            assert run(second, "SELECT 1") != oid
