"""The broker that the tests with workers share."""

import pytest

from pgnotifier.testing import ValkeyServer


@pytest.fixture(scope="session")
def broker():
    """Yield the URL of the broker that tests with workers share; each test has its own queues."""
    with ValkeyServer() as server:
        yield server.url
