"""A process in which no thread can be started for a while."""

import asyncio
import json
import threading
import urllib.error
import urllib.request

import pytest

from pgnotifier import AsyncioDispatcher, InlineDispatcher
from pgnotifier.cli import foreground
from pgnotifier.errors import ConnectionFailedError


@pytest.fixture
def refuse(monkeypatch):
    """Return a set of name prefixes; threads with such names can't be started."""
    start, refused = threading.Thread.start, set()

    def refusing(self):
        if self.name.startswith(tuple(refused)):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    return refused


def test_a_deliverer_that_cannot_be_started(notifier, db, make_recorder, refuse, eventually):
    """While a deliverer can't be started, its notifications wait; others are delivered."""
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
    """`on_gap`, and deliveries after the gap, wait until a thread can be started."""
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


@pytest.mark.parametrize("name", ["pgnotifier-reader", "pgnotifier-health"])
def test_a_start_without_a_thread(
    pgnotifier_dsn, make_notifier, db, record, refuse, name, free_port
):
    """If no thread can be started, `start()` raises `ConnectionFailedError`; the next one works."""
    notifier = make_notifier(pgnotifier_dsn, health_port=free_port)
    notifier.subscribe(1, "a", record, autorun=False)
    refuse.add(name)
    with pytest.raises(ConnectionFailedError, match="no thread can be started: can't start new"):
        notifier.start()
    assert not notifier.is_running()
    refuse.clear()
    notifier.start()
    db.notify("a", 1)
    assert record.wait_for(1) == [1]


def test_probes_without_a_thread(pgnotifier_dsn, make_notifier, refuse, free_port, caplog):
    """`/readyz` answers 503 with the reason, and `/healthz` 200, as the listener is running."""
    notifier = make_notifier(pgnotifier_dsn, health_port=free_port)
    notifier.add_channel("a")

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}{path}", timeout=60) as answer:
            return json.load(answer)

    refuse.add("pgnotifier-check")
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask("/readyz")
    with refused.value as answer:
        assert answer.code == 503
        assert json.load(answer)["trouble"] == ["no thread can be started: can't start new thread"]
    assert ask("/healthz")["ok"]
    assert "a health check failed" not in caplog.text
    refuse.clear()
    assert ask("/readyz") == {"ok": True, "states": ["listening"], "trouble": []}


def test_a_coroutine_that_starts_without_a_thread(pgnotifier_dsn, make_notifier, refuse):
    """`async with` raises `ConnectionFailedError`, and nothing starts the notifier later."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=AsyncioDispatcher())

    async def main():
        notifier.subscribe(1, "a", print, autorun=False)
        refuse.update(["pgnotifier-", "asyncio"])
        with pytest.raises(ConnectionFailedError, match="no thread can be started"):
            async with notifier:
                pass
        refuse.clear()
        await asyncio.to_thread(threading.get_ident)
        assert not notifier.is_running()

    asyncio.run(main())


def test_a_coroutine_that_stops_without_a_thread(pgnotifier_dsn, make_notifier, refuse):
    """The end of `async with` stops the notifier, though no thread can be started for that."""
    notifier = make_notifier(pgnotifier_dsn, dispatcher=AsyncioDispatcher())

    async def main():
        notifier.subscribe(1, "a", print, autorun=False)
        async with notifier:
            refuse.add("pgnotifier-")
        assert not notifier.is_running()

    asyncio.run(main())


def test_a_deliverer_that_is_started_at_the_end(notifier, db, record, refuse, eventually):
    """A deliverer that couldn't be started before is started by `stop()`, and delivers."""
    threads = threading.active_count()
    refuse.add("pgnotifier-InlineDispatcher")
    notifier.subscribe(1, "a", record)
    db.notify("a", 1)
    eventually(lambda: notifier.status().received == 1)
    stopping = threading.Thread(target=notifier.stop)
    stopping.start()
    eventually(lambda: not notifier.is_running() or threading.active_count() <= threads + 1)
    refuse.clear()
    stopping.join(30)
    assert record.payloads == [1]


def test_several_that_stop_without_a_thread(pgnotifier_dsn, make_notifier, db, refuse, eventually):
    """Notifiers that stop while no thread can be started deliver all that they have received."""
    release, delivered = threading.Event(), []

    def deliver(*called):
        assert release.wait(60)
        delivered.append(called[2])

    notifiers = [make_notifier(pgnotifier_dsn) for _ in range(3)]
    for notifier in notifiers:
        notifier.subscribe(1, "a", deliver)
    db.notify("a", 1)
    db.notify("a", 2)
    eventually(lambda: all(notifier.status().received == 2 for notifier in notifiers))
    refuse.add("")
    release.set()
    assert foreground.stop_all(notifiers, 60) == 0
    assert sorted(delivered) == [1, 1, 1, 2, 2, 2]
    assert not any(notifier.is_running() for notifier in notifiers)
