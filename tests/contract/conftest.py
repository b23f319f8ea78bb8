"""What the contracts of queues share: a broker that can be taken away."""

from contextlib import contextmanager

import pytest


@pytest.fixture
def away(pgnotifier_private_valkey):
    """Return a context manager in whose block the broker is away."""

    @contextmanager
    def away():
        pgnotifier_private_valkey.stop()
        try:
            yield
        finally:
            pgnotifier_private_valkey.start()

    return away
