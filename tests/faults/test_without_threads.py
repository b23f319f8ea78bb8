"""A process in which no thread can be started for a while."""

import threading

import pytest

from pgnotifier import InlineDispatcher


@pytest.fixture
def refuse(monkeypatch):
    """Return a set of beginnings of names: threads with these can't be started."""
    start, refused = threading.Thread.start, set()

    def refusing(self):
        if self.name.startswith(tuple(refused)):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    return refused


def test_a_deliverer_that_cannot_be_started(notifier, db, make_recorder, refuse, eventually):
    """What comes for it waits, and others get theirs; it is started as soon as it can be."""
    first, second = make_recorder(), make_recorder()
    notifier.subscribe(1, "a", first)
    refuse.add("pgnotifier-InlineDispatcher")
    notifier.subscribe(2, "a", second, dispatcher=InlineDispatcher())
    for number in range(3):
        db.notify("a", number)
    assert first.wait_for(3) == [0, 1, 2]
    assert second.calls == []
    assert notifier.status().gaps == 0
    refuse.clear()
    assert second.wait_for(3) == [0, 1, 2]
    assert notifier.status().state == "listening"


def test_a_gap_without_a_thread(pgnotifier_dsn, make_notifier, db, record, refuse, eventually):
    """`on_gap` is called, and what comes after it delivered, once there is a thread for it."""
    gaps = []
    notifier = make_notifier(pgnotifier_dsn, on_gap=gaps.append)
    notifier.subscribe(1, "a", record)
    refuse.add("pgnotifier-on_gap")
    db.terminate()
    eventually(lambda: notifier.status().gaps == 1)
    db.notify("a", 1)
    eventually(lambda: notifier.status().dispatchers[0].waiting == 1)
    assert gaps == []
    refuse.clear()
    assert record.wait_for(1) == [1]
    assert len(gaps) == 1
