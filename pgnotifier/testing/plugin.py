"""pytest fixtures for real PostgreSQL and Valkey servers.

Enable them with `pytest -p pgnotifier.testing.plugin`, or with
`pytest_plugins = ["pgnotifier.testing.plugin"]` in the top-level conftest.py.

| fixture | scope | is |
|---|---|---|
| `pgnotifier_postgres` | session | a running `PostgresServer` |
| `pgnotifier_dsn` | function | the conninfo string of a new, empty database on it |
| `pgnotifier_valkey` | session | a running `ValkeyServer` |
| `pgnotifier_redis_url` | function | the URL of an empty database on it |
| `pgnotifier_private_postgres` | function | a running `PostgresServer` to stop, kill and restart |
| `pgnotifier_private_valkey` | function | the same, with a persistent `ValkeyServer` |

`PGNOTIFIER_TEST_DSN` and `PGNOTIFIER_TEST_REDIS_URL` name servers to use instead. The private
fixtures then skip the test. **The database in that URL is flushed**. With pytest-xdist, the
databases with the following numbers are flushed as well, one for each worker. If no URL is set,
each worker starts its own servers.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from pgnotifier.testing.databases import Databases
from pgnotifier.testing.postgres import PostgresServer
from pgnotifier.testing.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgnotifier.testing.server import Server


pytest.register_assert_rewrite("pgnotifier.testing.contract")


@pytest.fixture(scope="session")
def pgnotifier_postgres() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server that the tests of this process share; don't stop it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def _pgnotifier_databases(pgnotifier_postgres: PostgresServer) -> Iterator[Databases]:
    databases = Databases(pgnotifier_postgres)
    yield databases
    databases.close()


@pytest.fixture
def pgnotifier_dsn(_pgnotifier_databases: Databases) -> Iterator[str]:
    """Yield the conninfo string of a new database, which is gone after the test."""
    with _pgnotifier_databases.lend() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def pgnotifier_valkey() -> Iterator[ValkeyServer]:
    """Yield a Valkey server that the tests of this process share; don't stop it."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def pgnotifier_redis_url(pgnotifier_valkey: ValkeyServer) -> Iterator[str]:
    """Yield the URL of an empty database, which is emptied again after the test."""
    url = _next_database(pgnotifier_valkey)
    _flush(url)
    yield url
    _flush(url)


@pytest.fixture
def pgnotifier_private_postgres() -> Iterator[PostgresServer]:
    """Yield a PostgreSQL server for one test, which may stop and kill it."""
    with PostgresServer() as server:
        _skip_external(server)
        yield server


@pytest.fixture
def pgnotifier_private_valkey() -> Iterator[ValkeyServer]:
    """Yield a persistent Valkey server for one test, which may stop and kill it."""
    with ValkeyServer(persistent=True) as server:
        _skip_external(server)
        yield server


def _skip_external(server: Server) -> None:
    if server.is_external:
        pytest.skip(f"needs a server that it can stop and start: unset {server.variable}")


# What one test leaves running may go on writing for a while, so the next gets another database.
_numbers = itertools.cycle(range(16))


def _next_database(server: ValkeyServer) -> str:
    parts = urlsplit(server.url)
    number = next(_numbers)
    if server.is_external:
        # All workers share the server: each uses its own database, counted from the URL's.
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        number = int(parts.path.strip("/") or 0) + int(worker)
    return urlunsplit(parts._replace(path=f"/{number}"))


def _flush(url: str) -> None:
    import redis

    with redis.Redis.from_url(url) as client:
        client.flushdb()
