"""Callbacks that fail or block don't affect others; and what callbacks are called with."""

import json
import sys
import threading

import pytest

from pgnotifier import InlineDispatcher


@pytest.fixture
def gate():
    """Yield an event that a callback waits for; it is set after the test, so that threads end."""
    opened = threading.Event()
    yield opened
    opened.set()


def fail(error):
    def callback(*_):
        raise error

    return callback


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_raising(pgnotifier_dsn, make_notifier, db, record, caplog, error):
    """A callback that raises prevents neither other callbacks nor the next notification."""
    errors = []
    notifier = make_notifier(pgnotifier_dsn, on_error=lambda *args: errors.append(args))
    notifier.subscribe("bad", "a", fail(error))
    notifier.subscribe("good", "a", record)
    db.notify("a", '{"n": 1}')
    db.notify("a", '{"n": 2}')
    assert record.wait_for(2) == [{"n": 1}, {"n": 2}]
    exc, subscription, notification = errors[0]
    assert exc is error
    assert (subscription.id, subscription.channel) == ("bad", "a")
    assert notification.payload == {"n": 1}
    assert notification.raw == '{"n": 1}'
    assert notification.pid == db.pid
    assert len(errors) == notifier.status().errors == 2
    assert len([r for r in caplog.records if "'bad'" in r.getMessage()]) == 1


def test_sys_exit(notifier, db, record):
    """A callback that calls `sys.exit()` ends neither the notifier nor other callbacks."""
    notifier.subscribe("bad", "a", lambda *_: sys.exit(3))
    notifier.subscribe("good", "a", record)
    db.notify("a", "1")
    assert record.wait_for(1) == [1]
    assert notifier.is_running()


def test_on_error_raising(pgnotifier_dsn, make_notifier, db, record):
    """If `on_error` itself raises, other callbacks are still called."""
    notifier = make_notifier(pgnotifier_dsn, on_error=fail(SystemExit("hook")))
    notifier.subscribe("bad", "a", fail(ValueError("no")))
    notifier.subscribe("good", "a", record)
    db.notify("a", "1")
    db.notify("a", "2")
    assert record.wait_for(2) == [1, 2]


def test_on_error_calling_the_notifier(pgnotifier_dsn, make_notifier, db, settle):
    """`on_error` may unsubscribe the callback that failed."""
    errors = []

    def hook(exc, subscription, notification):
        errors.append(notification.payload)
        notifier.unsubscribe(subscription.id, subscription.channel)

    notifier = make_notifier(pgnotifier_dsn, on_error=hook)
    notifier.subscribe("bad", "a", fail(ValueError("no")))
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 10) n")
    settle(notifier)
    assert errors == [1]


def test_blocking(notifier, db, make_recorder, eventually, gate):
    """While a callback blocks, all is read, and others are called; then it gets the rest."""
    slow, quick = make_recorder(), make_recorder()

    def block(*args):
        assert gate.wait(120)
        slow(*args)

    notifier.subscribe("slow", "a", block)
    notifier.subscribe("quick", "a", quick, dispatcher=InlineDispatcher())
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 3000) n")
    assert quick.wait_for(3000) == list(range(1, 3001))
    assert slow.calls == []
    notifier.subscribe("late", "b", quick, dispatcher=InlineDispatcher())
    db.notify("b", "received")
    assert quick.wait_for(3001)[-1] == "received"
    status = notifier.status()
    assert status.received == 3001
    assert status.state == "listening"
    assert status.dispatchers[0].waiting == 2999
    gate.set()
    assert slow.wait_for(3000) == list(range(1, 3001))


def test_a_full_buffer_keeps_the_connection(
    pgnotifier_dsn, make_notifier, db, make_recorder, eventually, gate
):
    """With `block`, what doesn't fit in the buffer waits on the server, and is delivered later."""
    record = make_recorder()

    def block(*args):
        assert gate.wait(120)
        record(*args)

    notifier = make_notifier(pgnotifier_dsn, buffer_size=10)
    notifier.subscribe(1, "a", block)
    for start in range(0, 20_000, 1000):
        db.execute(
            "SELECT pg_notify('a', n::text) FROM generate_series(%s::int, %s) n", start, start + 999
        )
    eventually(lambda: notifier.status().dispatchers[0].full)
    assert notifier.status().received < 20_000
    notifier.add_channels(["changes are made all the same"])
    gate.set()
    assert record.wait_for(20_000) == list(range(20_000))
    assert notifier.status().gaps == 0


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_dropping_is_a_gap(
    pgnotifier_dsn, make_notifier, db, make_recorder, eventually, gate, overflow
):
    """Notifications that a full buffer drops are counted, and reported as a gap on its channels."""
    record, gaps, reached = make_recorder(), [], threading.Event()

    def block(*args):
        reached.set()
        assert gate.wait(120)
        record(*args)

    notifier = make_notifier(pgnotifier_dsn, buffer_size=10, overflow=overflow, on_gap=gaps.append)
    notifier.subscribe(1, "a", block)
    notifier.add_channels(["b"])
    db.notify("a", "0")
    assert reached.wait(20)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 100) n")
    eventually(lambda: gaps)
    assert gaps[0].channels == {"a"}
    eventually(lambda: notifier.status().dispatchers[0].dropped == 90)
    gate.set()
    kept = list(range(91, 101)) if overflow == "drop_oldest" else list(range(1, 11))
    assert record.wait_for(11) == [0, *kept]
    assert notifier.status().last_gap == gaps[-1]


def test_a_gap_hook_that_blocks(pgnotifier_dsn, make_notifier, db, record, gate):
    """An `on_gap` that blocks doesn't prevent deliveries."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=lambda _: gate.wait(120))
    notifier.subscribe(1, "a", record)
    notifier.restart()
    notifier.restart()
    db.notify("a", "received")
    assert record.wait_for(1) == ["received"]


def test_payloads_of_ones_own(notifier, db, make_recorder):
    """If a callback changes its payload, the next callback doesn't see the changes."""
    record = make_recorder()

    def spoil(id, channel, payload, pid):
        payload["items"].clear()
        payload["spoilt"] = True

    notifier.subscribe("spoil", "a", spoil)
    notifier.subscribe("record", "a", record)
    db.notify("a", '{"items": [1, 2]}')
    assert record.wait_for(1) == [{"items": [1, 2]}]


def test_status(notifier, db, record, settle):
    """The status counts channels, subscriptions, received notifications and errors."""
    notifier.subscribe(1, "a", record)
    notifier.subscribe(2, "a", fail(ValueError("no")))
    notifier.add_channels(["b"])
    for channel in "aab":
        db.notify(channel)
    settle(notifier)
    found = json.loads(json.dumps(notifier.status().to_dict()))
    assert found["state"] == "listening"
    assert (found["channels"], found["subscriptions"]) == (2, 2)
    assert (found["received"], found["errors"]) == (4, 2)
    assert (found["gaps"], found["reconnects"], found["last_gap"]) == (0, 0, None)
    (dispatcher,) = found["dispatchers"]
    assert dispatcher["name"] == "InlineDispatcher"
    assert (dispatcher["waiting"], dispatcher["dropped"]) == (0, 0)
    notifier.stop()
    assert notifier.status().state == "stopped"
    assert notifier.status().channels == 2


def test_on(notifier, db, make_recorder):
    """The decorator `on` subscribes a function to one or several channels, as `subscribe` does."""
    calls, others = make_recorder(), make_recorder()

    @notifier.on(["a", "b"])
    def callback(*args):
        calls(*args)

    @notifier.on("a", id=7, dispatcher=InlineDispatcher())
    def another(*args):
        others(*args)

    db.notify("b", 1)
    db.notify("a", 2)
    assert calls.wait_for(2) == [1, 2]
    assert others.wait_for(1) == [2]
    assert others.ids == [7]
    assert calls.ids == [f"{__name__}.test_on.<locals>.callback"] * 2


def test_a_decoder_of_ones_own(pgnotifier_dsn, make_notifier, db, record):
    """`decoder` makes the payloads; if it raises, that is reported, and the next one is decoded."""
    errors = []
    notifier = make_notifier(
        pgnotifier_dsn, decoder=int, on_error=lambda *args: errors.append(args[2].raw)
    )
    notifier.subscribe(1, "a", record)
    for text in ("1", "two", "3"):
        db.notify("a", text)
    assert record.wait_for(2) == [1, 3]
    assert errors == ["two"]
