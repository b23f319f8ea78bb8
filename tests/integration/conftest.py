"""What the tests with workers share: a broker."""

import pytest

from pgnotifier.testing import ValkeyServer


@pytest.fixture(scope="session")
def broker():
    """Yield the URL of a broker that tests with workers share, each with queues of its own."""
    with ValkeyServer() as server:
        yield server.url
