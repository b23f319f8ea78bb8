"""Scripts from one version of the schema to another, with two versions that tests make up."""

from typing import get_args

import psycopg
import pytest

from pgnotifier import durable
from pgnotifier._log.installing import GRANTS_SINCE, PARTS_SINCE, Part
from pgnotifier._log.versions import (
    FOLDER,
    as_statement,
    make_script,
    make_statement,
    read_steps,
)
from pgnotifier.errors import ConfigurationError

NEWER = {
    2: """
ALTER TABLE pgnotifier.subscription ADD COLUMN label text DEFAULT 'it''s %s :new';
CREATE FUNCTION pgnotifier.second() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 2; END $$;
UPDATE pgnotifier.installed SET version = 2;
""",
    3: """
SELECT pgnotifier.second();
DROP FUNCTION pgnotifier.second();
UPDATE pgnotifier.installed SET version = 3;
""",
}


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three versions of the schema."""
    (tmp_path / "1.sql").write_text(FOLDER.joinpath("1.sql").read_text("ascii"))
    for version, statements in NEWER.items():
        (tmp_path / f"{version}.sql").write_text(statements)
    return tmp_path


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection to a database without a log."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        yield connection


def version_of(connection):
    """Return the installed version; None if the log isn't there."""
    (found,) = connection.execute("SELECT to_regclass('pgnotifier.installed') IS NULL").fetchone()
    if found:
        return None
    return connection.execute("SELECT version FROM pgnotifier.installed").fetchone()[0]


def shape(connection):
    """Return what the schema consists of."""
    return connection.execute(
        "SELECT attrelid::regclass::text, attname, atttypid::regtype::text FROM pg_attribute"
        " JOIN pg_class AS c ON c.oid = attrelid WHERE relnamespace = 'pgnotifier'::regnamespace"
        " AND attnum > 0 UNION ALL SELECT oid::regprocedure::text, prosrc, proconfig::text"
        " FROM pg_proc WHERE pronamespace = 'pgnotifier'::regnamespace ORDER BY 1, 2, 3"
    ).fetchall()


def test_there_is_a_file_for_each_version():
    """The folder has the statements of each version, and the grants of those with other ones.

    And what comes before each upgrade.
    """
    older = {
        f"{one}.{part}" for part in get_args(Part) for one in range(PARTS_SINCE[part], GRANTS_SINCE)
    }
    found = {one.name.removesuffix(".sql") for one in FOLDER.iterdir()}
    assert found == {*map(str, range(1, durable.VERSION + 1)), "before_upgrade", *older}


def test_each_version_notes_that_it_is_installed(connection):
    """After the statements of a version, `installed` has that version."""
    for version in range(1, durable.VERSION + 1):
        with connection.transaction():
            connection.execute(make_script(read_steps(version - 1, version), version - 1).encode())
        assert version_of(connection) == version


def test_only_the_difference(folder):
    """A script from a version has the statements of later versions alone, in order."""
    script = make_script(read_steps(1, 3, folder), 1)
    assert "CREATE SCHEMA" not in script
    assert script.index("pgnotifier.second() RETURNS") < script.index("DROP FUNCTION")
    assert "DROP FUNCTION" not in make_script(read_steps(1, 2, folder), 1)
    assert "RETURNS int" not in make_script(read_steps(2, 3, folder), 2)


@pytest.mark.slow
@pytest.mark.parametrize("path", [(3,), (1, 3), (2, 3), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("make", [make_script, make_statement])
def test_all_ways_lead_to_the_same(connection, folder, pgnotifier_postgres, path, make):
    """A schema that was upgraded is the same as a new one."""
    since = 0
    for version in path:
        with connection.transaction():
            connection.execute(make(read_steps(since, version, folder), since).encode())
        assert version_of(connection) == version
        since = version
    with pgnotifier_postgres.database() as other, psycopg.connect(other) as new:
        new.execute(make_script(read_steps(0, 3, folder), 0).encode())
        assert shape(connection) == shape(new)


def test_an_upgrade_that_has_been_made(connection, folder):
    """A script does nothing if another program has upgraded the log already, or even further."""
    with connection.transaction():
        connection.execute(make_script(read_steps(0, 3, folder), 0).encode())
    for since, version in ((1, 2), (1, 3), (2, 3)):
        with connection.transaction():
            connection.execute(make_script(read_steps(since, version, folder), since).encode())
        assert version_of(connection) == 3


def test_half_of_an_upgrade_is_left(connection, folder):
    """Of an upgrade over two versions, only the second is made if the first one has been."""
    for since, version in ((0, 2), (1, 3)):
        with connection.transaction():
            connection.execute(make_script(read_steps(since, version, folder), since).encode())
    assert version_of(connection) == 3


@pytest.mark.parametrize(("installed", "found"), [(0, "none is installed"), (1, "1 is installed")])
def test_an_upgrade_from_a_version_that_is_not_there(connection, folder, installed, found):
    """An upgrade from a later version than the installed one is refused: steps would be missing."""
    if installed:
        with connection.transaction():
            connection.execute(make_script(read_steps(0, installed, folder), 0).encode())
    script = make_script(read_steps(2, 3, folder), 2)
    with pytest.raises(psycopg.errors.RaiseException, match=found):
        connection.execute(script.encode())
    assert version_of(connection) == (installed or None)


@pytest.mark.parametrize("make", [make_script, make_statement])
def test_a_schema_of_somebody_else(connection, folder, make_role, make):
    """Nothing in a schema of another role is executed or read, not even by a superuser."""
    name, dsn = make_role()
    connection.execute(f"CREATE SCHEMA pgnotifier AUTHORIZATION {name}")
    with psycopg.connect(dsn, autocommit=True) as theirs:
        theirs.execute(
            "CREATE FUNCTION pgnotifier.trap() RETURNS int LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'sprung'; END $$;"
            "CREATE VIEW pgnotifier.installed AS SELECT pgnotifier.trap() AS version"
        )
    script = make(read_steps(1, 2, folder), 1).encode()
    with pytest.raises(psycopg.errors.RaiseException, match=f"belongs to role {name}"):
        connection.execute(script)


def test_outside_of_a_transaction(connection, folder):
    """Executed one by one without a transaction, an upgrade's statements stop before any change."""
    with connection.transaction():
        connection.execute(make_script(read_steps(0, 1, folder), 0).encode())
    script = make_script(read_steps(1, 2, folder), 1)
    pinning, rest = script.split("DO $$", 1)
    for statement in pinning.split(";"):
        connection.execute(statement.encode())
    with pytest.raises(psycopg.errors.RaiseException, match="in one transaction"):
        connection.execute(f"DO $${rest.split('END $$;')[0]}END $$".encode())


def test_grants_of_each_version(connection):
    """The rights of a version can be granted when that version is installed, as one statement too.

    If this fails for an older one, copy what `_GRANTS` was then to a file in the folder.
    """
    for version in range(1, durable.VERSION + 1):
        durable.install(connection, version)
        for part in (one for one in get_args(Part) if version >= PARTS_SINCE[one]):
            script = durable.grant_script("pg_monitor", part, version)
            connection.execute(as_statement(script).encode())
            durable.grant(connection, "pg_monitor", part)


def test_an_upgrade_keeps_rights(connection, pgnotifier_postgres):
    """Roles with rights in an older version have those of the newest after an upgrade."""

    def rights(session):
        return session.execute(
            "SELECT c.oid::regclass::text, a.privilege_type FROM pg_class AS c,"
            " aclexplode(c.relacl) AS a WHERE relnamespace = 'pgnotifier'::regnamespace"
            " AND a.grantee = 'pg_monitor'::regrole UNION ALL"
            " SELECT p.oid::regprocedure::text, a.privilege_type FROM pg_proc AS p,"
            " aclexplode(p.proacl) AS a WHERE pronamespace = 'pgnotifier'::regnamespace"
            " AND a.grantee = 'pg_monitor'::regrole ORDER BY 1, 2"
        ).fetchall()

    with pgnotifier_postgres.database() as other, psycopg.connect(other) as new:
        durable.install(new)
        durable.install(connection, 1)
        parts = sorted(get_args(Part), key=lambda part: PARTS_SINCE[part])
        version = 1
        for part in parts:
            durable.grant(new, "pg_monitor", part)
            if PARTS_SINCE[part] > version:
                version = PARTS_SINCE[part]
                with pytest.raises(ConfigurationError, match=f"need version {version} "):
                    durable.grant(connection, "pg_monitor", part)
                durable.install(connection, version)
            durable.grant(connection, "pg_monitor", part)
        durable.install(connection)
        assert rights(connection) == rights(new)


@pytest.mark.slow
def test_a_part_that_an_older_version_does_not_have(connection):
    """Rights that come with a later version are refused, and the error says what to run."""
    durable.install(connection, 2)
    needs = "'enqueuer' need version 3 of the log, and it has version 2. Run: pgnotifier install"
    with pytest.raises(ConfigurationError, match=needs):
        durable.grant(connection, "pg_monitor", "enqueuer")
    with pytest.raises(ConfigurationError, match=needs):
        durable.grant_script("pg_monitor", "enqueuer", 2)
    durable.install(connection)
    durable.grant(connection, "pg_monitor", "enqueuer")
