"""Installing the durable log: repeatable, at once from several places, by any role, as a script."""

import re
import threading

import psycopg
import pytest
from copying import dump, restore
from psycopg import sql

from pgnotifier import durable
from pgnotifier.errors import (
    ArgumentTypeError,
    ConfigurationError,
    LogNotInstalledError,
    LogRefusedError,
)


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield a connection to a database without a log."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        yield connection


def test_install_and_uninstall(connection):
    """The schema is installed once, and dropped once; each says whether it did anything."""
    assert durable.install(connection) is True
    assert durable.install(connection) is False
    assert durable.check(connection) == durable.VERSION
    assert durable.uninstall(connection) is True
    assert durable.uninstall(connection) is False


def test_a_connection_that_prepares_everything(connection):
    """A connection that prepares each statement can install the log, which takes scripts."""
    connection.prepare_threshold = 0
    assert durable.install(connection) is True
    durable.grant(connection, "pg_monitor", "publisher")
    assert durable.uninstall(connection) is True


def test_what_is_missing_is_reported(connection):
    """If the log isn't installed, `check` says how to install it."""
    with pytest.raises(LogNotInstalledError, match="Run: pgnotifier install"):
        durable.check(connection)


def test_an_old_version_is_reported(connection):
    """If the log is too old, `check` says how to upgrade it."""
    durable.install(connection)
    connection.execute("UPDATE pgnotifier.installed SET version = version - 1")
    reported = rf"has version {durable.VERSION - 1}, .* needs {durable.VERSION}\. Run: pgnotifier"
    with pytest.raises(LogNotInstalledError, match=reported):
        durable.check(connection)


@pytest.mark.slow
def test_a_schema_that_was_copied_alone(connection, pgnotifier_postgres, pgnotifier_dsn):
    """A log of which only the schema was copied is refused with what to do, which helps."""
    durable.install(connection)
    with pgnotifier_postgres.database() as dsn, psycopg.connect(dsn, autocommit=True) as copy:
        restore(dump(pgnotifier_dsn, "--schema-only"), dsn)
        with pytest.raises(LogNotInstalledError, match=r"copied alone.*uninstall"):
            durable.check(copy)
        with pytest.raises(LogRefusedError, match=r"copied alone.*uninstall"):
            durable.install(copy)
        assert durable.uninstall(copy)
        assert durable.install(copy)
        assert durable.check(copy) == durable.VERSION


def test_a_newer_version_is_accepted(connection):
    """A log that a newer pgnotifier has installed can be used, and isn't changed."""
    durable.install(connection)
    connection.execute("UPDATE pgnotifier.installed SET version = version + 1")
    assert durable.check(connection) == durable.VERSION + 1
    assert durable.install(connection) is False


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel))
def test_at_once_from_several_places(pgnotifier_dsn, level):
    """Of eight sessions that install the log at once, one does, and the others wait for it."""
    done = []
    barrier = threading.Barrier(8)

    def install():
        with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
            connection.isolation_level = level
            barrier.wait(60)
            done.append(durable.install(connection))

    threads = [threading.Thread(target=install) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(done) == [False] * 7 + [True]


def test_in_the_transaction_of_the_caller(pgnotifier_dsn, connection):
    """In an open transaction, the log is installed if that is committed; settings are kept."""
    with psycopg.connect(pgnotifier_dsn) as caller:
        caller.execute("SET search_path = public")
        caller.execute("SET lock_timeout = '7s'")
        assert durable.install(caller) is True
        assert caller.execute("SHOW search_path").fetchone() == ("public",)
        assert caller.execute("SHOW lock_timeout").fetchone() == ("7s",)
        caller.rollback()
    with pytest.raises(LogNotInstalledError):
        durable.check(connection)


def test_the_script(connection):
    """What migration tools execute installs the same, in one transaction."""
    with connection.transaction():
        connection.execute(durable.install_script().encode())
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
    assert durable.install(connection) is False


def test_the_script_refuses_autocommit(connection):
    """Executed statement by statement, the script stops before it creates anything."""
    pinning, block = re.match(r"(.*?)(DO \$\$.*?\$\$;)", durable.install_script(), re.S).groups()
    for statement in pinning.split(";"):
        connection.execute(statement.encode())
    with pytest.raises(psycopg.errors.RaiseException, match="in one transaction"):
        connection.execute(block.encode())


@pytest.mark.parametrize(
    ("since", "version"), [(0, 0), (-1, 1), (1, 1), (0, durable.VERSION + 1)], ids=str
)
def test_versions_that_do_not_exist(since, version):
    """Only versions that this pgnotifier has can be installed, and none that is older."""
    with pytest.raises(ConfigurationError, match=f"the versions 1 to {durable.VERSION}"):
        durable.install_script(since, version)


def test_a_version_that_is_not_a_number(connection):
    """Versions are numbers; a version is checked before anything is executed."""
    with pytest.raises(ArgumentTypeError, match="an int, not '1'"):
        durable.install(connection, "1")
    with pytest.raises(ConfigurationError):
        durable.install(connection, durable.VERSION + 1)
    with pytest.raises(ConfigurationError):
        durable.grant_script("pg_monitor", "publisher", 0)


def test_a_pinned_version(connection):
    """An installation with a version installs no later one, and leaves a later one alone."""
    assert durable.install(connection, 1) is True
    assert durable.install(connection, 1) is False
    assert durable.install(connection) is (durable.VERSION > 1)
    assert durable.install(connection, 1) is False
    assert durable.check(connection) == durable.VERSION


def test_the_script_that_uninstalls(connection):
    """What migration tools execute drops the log, if there is one."""
    durable.install(connection)
    for _ in range(2):
        connection.execute(durable.uninstall_script().encode())
    with pytest.raises(LogNotInstalledError):
        durable.check(connection)


def test_without_superuser(connection, make_role, pgnotifier_dsn):
    """A role that may create schemas installs the log, grants rights, and uninstalls it."""
    name, dsn = make_role()
    other, _ = make_role()
    (database,) = connection.execute("SELECT current_database()").fetchone()
    connection.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
            sql.Identifier(database), sql.Identifier(name)
        )
    )
    with psycopg.connect(dsn, autocommit=True) as owner:
        assert durable.install(owner) is True
        durable.grant(owner, other, "publisher")
        durable.grant(owner, other, "listener")
        assert durable.uninstall(owner) is True


def test_without_the_right_to_create_schemas(make_role):
    """A role without that right gets an error that says so."""
    _, dsn = make_role()
    with (
        psycopg.connect(dsn, autocommit=True) as session,
        pytest.raises(LogRefusedError, match="permission denied for database"),
    ):
        durable.install(session)


@pytest.mark.parametrize("action", [durable.install, durable.uninstall])
def test_a_schema_of_somebody_else(connection, make_role, action):
    """A schema of that name that belongs to another role is neither read nor dropped.

    What is in it could execute that role's functions with the rights of a superuser.
    """
    name, _ = make_role()
    connection.execute(
        sql.SQL("CREATE SCHEMA pgnotifier AUTHORIZATION {}").format(sql.Identifier(name))
    )
    with pytest.raises(LogRefusedError, match=f"belongs to role '{name}'"):
        action(connection)


def test_unknown_roles_and_parts(connection):
    """A role that doesn't exist is refused, and so is a part that isn't one."""
    durable.install(connection)
    with pytest.raises(LogRefusedError, match="nobody_at_all"):
        durable.grant(connection, "nobody_at_all", "publisher")
    with pytest.raises(ArgumentTypeError, match="'owner'"):
        durable.grant_script("somebody", "owner")


def test_every_function_pins_its_search_path(connection):
    """Each function looks names up in pg_catalog only, and nobody but its owner may execute it."""
    durable.install(connection)
    functions = connection.execute(
        "SELECT proname, proconfig, has_function_privilege('public', p.oid, 'EXECUTE')"
        " FROM pg_proc AS p WHERE pronamespace = 'pgnotifier'::regnamespace"
    ).fetchall()
    assert len(functions) > 20
    for name, settings, is_public in functions:
        assert "search_path=pg_catalog, pg_temp" in (settings or ()), name
        assert not is_public, name
