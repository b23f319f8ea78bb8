"""What the contracts of queues share: a broker that can be taken away."""

import itertools
from contextlib import contextmanager

import pytest
import redis

from pgnotifier.testing import ValkeyServer

DATABASES = 16
_numbers = itertools.count()


@pytest.fixture(scope="session")
def lasting_valkey():
    """Yield a server that holds what it has while it is stopped; it runs before each test."""
    with ValkeyServer(persistent=True) as server:
        if server.is_external:
            pytest.skip(f"needs a server that it can stop and start: unset {server.variable}")
        yield server


@pytest.fixture
def broker_url(lasting_valkey):
    """Yield the URL of an empty database of the server; what came before may still write to one."""
    url = f"{lasting_valkey.url.removesuffix('/0')}/{next(_numbers) % DATABASES}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def away(lasting_valkey):
    """Return a context manager in whose block the broker is away."""

    @contextmanager
    def away():
        lasting_valkey.stop()
        try:
            yield
        finally:
            lasting_valkey.start()

    return away
