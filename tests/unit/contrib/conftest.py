"""Fixtures of the tests of queues."""

import weakref

import pytest
from redis.connection import AbstractConnection


@pytest.fixture(autouse=True)
def _disconnected(monkeypatch):
    """Close the connections to Redis that Celery and RQ leave open.

    Otherwise, a later test gets a ResourceWarning if the socket happens to be freed first.
    """
    made, connect = weakref.WeakSet(), AbstractConnection.connect

    def note(connection, *args, **options):
        made.add(connection)
        return connect(connection, *args, **options)

    monkeypatch.setattr(AbstractConnection, "connect", note)
    yield
    for connection in [*made]:
        connection.disconnect()
