"""The pytest fixtures, as a user's tests would use them."""

import os
import subprocess
import sys

import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

pytestmark = pytest.mark.servers

seen = set()


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_a_database_of_its_own(pgnotifier_dsn, round_):
    """A table that one test creates doesn't exist in the next test's database."""
    with psycopg.connect(pgnotifier_dsn) as connection:
        connection.execute("CREATE TABLE t ()")
    assert pgnotifier_dsn not in seen
    seen.add(pgnotifier_dsn)


def test_the_database_is_on_the_shared_server(pgnotifier_postgres, pgnotifier_dsn):
    """The database belongs to the server of the session."""
    host = conninfo_to_dict(pgnotifier_postgres.dsn).get("host")
    assert conninfo_to_dict(pgnotifier_dsn).get("host") == host


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_an_empty_redis_database(pgnotifier_redis_url, round_):
    """Each test gets an empty Redis database, although the test before wrote into its own."""
    with redis.Redis.from_url(pgnotifier_redis_url) as client:
        assert client.dbsize() == 0
        client.set("key", round_)


USER_TESTS = """
import os
import psycopg, pytest, redis

@pytest.mark.parametrize("n", range(4))
def test_both(pgnotifier_dsn, pgnotifier_redis_url, n):
    psycopg.connect(pgnotifier_dsn).close()
    with redis.Redis.from_url(pgnotifier_redis_url) as client:
        assert client.incr("n") == 1

def test_private_postgres(pgnotifier_private_postgres):
    pass

def test_private_valkey(pgnotifier_private_valkey):
    pass
"""


def test_external_servers_are_used(
    tmp_path, monkeypatch, pgnotifier_private_postgres, pgnotifier_private_valkey
):
    """With the variables set, a user's tests use those servers in parallel, and can't stop them."""
    postgres, valkey = pgnotifier_private_postgres, pgnotifier_private_valkey
    monkeypatch.setenv(postgres.variable, postgres.dsn)
    monkeypatch.setenv(valkey.variable, valkey.url)
    output = run_user_tests(tmp_path)
    assert "4 passed, 2 skipped" in output
    assert f"unset {postgres.variable}" in output
    assert f"unset {valkey.variable}" in output
    with psycopg.connect(postgres.dsn) as connection:
        (left,) = connection.execute("SELECT count(*) FROM pg_database").fetchone()
    assert left == 3
    with redis.Redis.from_url(valkey.url) as client:
        assert client.info("keyspace") == {}
    # They are in fact the fixtures' private servers, so this test may stop them.
    for server in (postgres, valkey):
        server.kill()
        server.start()
        assert server.is_running()


def run_user_tests(directory):
    (directory / "pytest.ini").touch()  # otherwise pytest looks in parent directories
    (directory / "conftest.py").write_text('pytest_plugins = ["pgnotifier.testing.plugin"]\n')
    (directory / "test_user.py").write_text(USER_TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "xdist", "-n2"],
        cwd=directory,
        # Some of the other plugins take seconds to import.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr
