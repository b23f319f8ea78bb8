"""Every case of `autorun`: what is live when the call returns, and what waits for a restart."""

import pytest


@pytest.fixture
def running(notifier, record):
    """Return a running notifier with a subscription."""
    notifier.subscribe("first", "first", record)
    return notifier


@pytest.mark.parametrize("way", ["start", "restart", "run"])
def test_not_running_false(notifier, db, record, way):
    """With False no change starts the notifier; all are live after the next start or restart."""
    notifier.add_channels(["a", "b"], autorun=False)
    notifier.add_channel("c", autorun=False)
    notifier.subscribe(1, "a", record, autorun=False)
    notifier.subscribe(2, "d", record, autorun=False)
    notifier.remove_channels(["b"], autorun=False)
    notifier.remove_channel("c", autorun=False)
    notifier.unsubscribe(2, "d", autorun=False)
    assert not notifier.is_running()
    assert db.listening() == []
    assert notifier.get_channels() == {"a"}
    getattr(notifier, way)()
    for channel in "abcd":
        db.notify(channel, channel)
    db.notify("a", "last")
    assert record.wait_for(2) == ["a", "last"]


@pytest.mark.parametrize(
    "change",
    [
        lambda n, fn: n.add_channels(["a"]),
        lambda n, fn: n.add_channel("a"),
        lambda n, fn: n.subscribe(1, "a", fn),
        lambda n, fn: n.on("a")(fn),
        lambda n, fn: n.add_channels([]),
    ],
)
def test_not_running_true_starts(notifier, db, record, change):
    """With True an addition starts a notifier that isn't running, with all subscriptions."""
    notifier.subscribe(2, "b", record, autorun=False)
    change(notifier, record)
    assert notifier.is_running()
    assert notifier.status().state == "listening"
    db.notify("b", "here")
    assert record.wait_for(1) == ["here"]


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.remove_channels(["a"]),
        lambda n: n.remove_channel("a"),
        lambda n: n.unsubscribe(1, "a"),
        lambda n: n.unsubscribe(2, "zzz"),
    ],
)
def test_not_running_true_removals_start_nothing(notifier, record, change):
    """A removal doesn't start a notifier."""
    notifier.subscribe(1, "a", record, autorun=False)
    change(notifier)
    assert not notifier.is_running()


def test_running_true(running, db, record, settle):
    """With True additions and removals are live when the call returns, on the same connection."""
    before = db.listening()
    running.add_channels(["a"])
    running.subscribe(1, "a", record)
    db.notify("a", "added")
    assert record.wait_for(1) == ["added"]
    running.remove_channels(["a"])
    db.notify("a", "removed")
    running.subscribe(2, "b", record)
    db.notify("b", "subscribed")
    assert record.wait_for(2) == ["added", "subscribed"]
    running.unsubscribe(2, "b")
    db.notify("b", "unsubscribed")
    settle(running)
    assert record.payloads == ["added", "subscribed"]
    assert db.listening() == before
    assert running.status().gaps == 0


def test_running_false_additions_wait(running, db, record, settle):
    """With False a new channel is registered, and not listened to until the next restart."""
    running.subscribe(1, "a", record, autorun=False)
    running.add_channels(["b"], autorun=False)
    assert running.get_channels() == {"first", "a", "b"}
    db.notify("a", "too early")
    settle(running)
    assert record.payloads == []
    running.restart()
    db.notify("a", "restarted")
    assert record.wait_for(1) == ["restarted"]


def test_running_false_until_stop_and_start(running, db, record, settle):
    """With False a new channel is also listened to after `stop` and `start`."""
    running.subscribe(1, "a", record, autorun=False)
    db.notify("a", "too early")
    settle(running)
    running.stop()
    running.start()
    db.notify("a", "started")
    assert record.wait_for(1) == ["started"]


def test_running_false_then_true(running, db, record):
    """A channel that was added with False becomes live once it is added again with True."""
    running.subscribe(1, "a", record, autorun=False)
    running.add_channels(["a"])
    db.notify("a", "live")
    assert record.wait_for(1) == ["live"]


def test_running_false_on_a_live_channel(running, db, make_recorder):
    """With False a subscription to a channel that is listened to already is live at once."""
    second = make_recorder()
    running.subscribe("second", "first", second, autorun=False)
    db.notify("first", "both")
    assert second.wait_for(1) == ["both"]


@pytest.mark.parametrize("autorun", [True, False])
@pytest.mark.parametrize(
    "remove",
    [
        lambda n, autorun: n.remove_channels({"first"}, autorun),
        lambda n, autorun: n.remove_channel("first", autorun=autorun),
        lambda n, autorun: n.unsubscribe("first", "first", autorun),
    ],
)
def test_removed_channels_are_silent_at_once(running, db, record, settle, remove, autorun):
    """A removed callback isn't called again, even while its channel is still listened to."""
    remove(running, autorun)
    db.notify("first", "too late")
    settle(running)
    assert record.payloads == []
    assert running.get_channels() == set()
    running.restart()
    db.notify("first", "still not")
    settle(running)
    assert record.payloads == []


@pytest.mark.parametrize("autorun", [True, False])
def test_unlisten(running, db, settle, autorun):
    """With True a removal sends UNLISTEN; with False the server sends on until a restart."""
    running.remove_channels("first", autorun)
    settle(running)
    before = running.status().received
    for _ in range(10):
        db.notify("first")
    settle(running)
    assert running.status().received - before == (1 if autorun else 11)
    running.restart()
    before = running.status().received
    db.notify("first")
    settle(running)
    assert running.status().received - before == 1


def test_removed_and_added_again(running, db, record, settle):
    """A channel that was removed and added again has none of its callbacks."""
    running.remove_channels(["first"])
    running.add_channels(["first"])
    db.notify("first", "nobody's")
    settle(running)
    assert record.payloads == []
    running.subscribe("again", "first", record)
    db.notify("first", "received")
    assert record.wait_for(1) == ["received"]
