"""Fixtures that the unit tests share."""

from time import monotonic

import pytest

from pgnotifier._delivery.deliverer import Deliverer
from pgnotifier._runtime.backoff import Backoff
from pgnotifier.payload import decode


@pytest.fixture
def short_pauses(monkeypatch):
    """Use short pauses between attempts."""
    monkeypatch.setattr(Backoff, "FIRST", 0.001)
    monkeypatch.setattr(Backoff, "LAST", 0.01)


@pytest.fixture
def make_deliverer(eventually):
    """Yield a function that makes deliverers; after the test they are stopped and must end."""
    made = []

    def deliverer(dispatcher, *, size=1000, overflow="block", decode=decode, on_room=lambda: None):
        made.append(
            Deliverer(dispatcher, decode=decode, size=size, overflow=overflow, on_room=on_room)
        )
        return made[-1]

    yield deliverer
    for one in made:
        one.stop(monotonic() + 5)
        eventually(lambda one=one: not one.thread.is_alive())
