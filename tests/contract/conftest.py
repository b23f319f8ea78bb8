"""Fixtures of the queue dispatchers' contract tests: a broker that can be stopped."""

import itertools
from contextlib import contextmanager

import pytest
import redis

from pgnotifier.testing import ValkeyServer

DATABASES = 16
_numbers = itertools.count()


@pytest.fixture(scope="session")
def lasting_valkey():
    """Yield a server that keeps its data while it is stopped; it runs when a test begins."""
    with ValkeyServer(persistent=True) as server:
        if server.is_external:
            pytest.skip(f"needs a server that it can stop and start: unset {server.variable}")
        yield server


@pytest.fixture
def broker_url(lasting_valkey):
    """Yield the URL of an empty database; earlier tests' workers may still write to another one."""
    url = f"{lasting_valkey.url.removesuffix('/0')}/{next(_numbers) % DATABASES}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def away(lasting_valkey):
    """Return a context manager that stops the broker, and starts it again at its end."""

    @contextmanager
    def away():
        lasting_valkey.stop()
        try:
            yield
        finally:
            lasting_valkey.start()

    return away
