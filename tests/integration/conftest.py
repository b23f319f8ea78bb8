"""The broker that the tests with workers share, and databases in other encodings."""

import secrets

import psycopg
import pytest
from psycopg import sql

from pgnotifier.testing import ValkeyServer


@pytest.fixture(scope="session")
def broker():
    """Yield the URL of the broker that tests with workers share; each test has its own queues."""
    with ValkeyServer() as server:
        yield server.url


@pytest.fixture
def database_in(pgnotifier_postgres):
    """Yield a function that creates databases in an encoding, which are dropped afterwards."""
    made = []
    server = pgnotifier_postgres

    def create(encoding):
        name = f"encoded_{encoding.lower()}_{secrets.token_hex(4)}"
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            # Before PostgreSQL 15, libc is the only provider, and can't be named.
            provider = " LOCALE_PROVIDER libc" if admin.info.server_version >= 150000 else ""
            admin.execute(
                sql.SQL(
                    "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'" + provider
                ).format(sql.Identifier(name), encoding)
            )
        made.append(name)
        return server.dsn_for(name)

    yield create
    for name in made:
        server.drop_database(name)
