"""Muting channels and subscribers; notifications meanwhile are dropped."""


def test_muting_channels(notifier, db, record, settle):
    """A channel is muted at once, and its notifications until it is unmuted are dropped."""
    notifier.subscribe(1, "a", record)
    notifier.subscribe(1, "b", record)
    notifier.mute_channels("a")
    db.notify("a", "muted")
    db.notify("b", "received")
    settle(notifier)
    notifier.unmute_channels(["a"])
    db.notify("a", "unmuted")
    assert record.wait_for(2) == ["received", "unmuted"]


def test_muting_all_channels(notifier, db, record, settle):
    """Without arguments, all channels are muted and unmuted."""
    notifier.subscribe(1, "a", record)
    notifier.subscribe(1, "b", record)
    notifier.mute_channels()
    db.notify("a", "muted")
    db.notify("b", "muted")
    settle(notifier)
    notifier.unmute_channels()
    db.notify("a", "unmuted")
    db.notify("b", "unmuted")
    assert record.wait_for(2) == ["unmuted"] * 2


def test_muting_no_channels(notifier, db, record):
    """An empty list of channels means no channel, and not all of them."""
    notifier.subscribe(1, "a", record)
    notifier.mute_channels([])
    notifier.mute_subscriber(1, ())
    db.notify("a", "received")
    assert record.wait_for(1) == ["received"]
    notifier.mute_channels()
    notifier.unmute_channels([])
    notifier.unmute_subscriber(1, set())
    assert notifier._lifecycle.registrar.registry.is_muted("a")


def test_muting_a_subscriber(notifier, db, make_recorder, settle):
    """A subscriber is muted on the given channels, or on all; other subscribers aren't affected."""
    muted, other = make_recorder(), make_recorder()
    for channel in ("a", "b"):
        notifier.subscribe("muted", channel, muted)
        notifier.subscribe("other", channel, other)
    notifier.mute_subscriber("muted", "a")
    notifier.mute_subscriber("nobody")
    db.notify("a", 1)
    db.notify("b", 2)
    settle(notifier)
    assert muted.payloads == [2]
    notifier.mute_subscriber("muted")
    db.notify("b", 3)
    settle(notifier)
    assert muted.payloads == [2]
    notifier.unmute_subscriber("muted")
    db.notify("a", 4)
    db.notify("b", 5)
    settle(notifier)
    assert muted.payloads == [2, 4, 5]
    assert other.payloads == [1, 2, 3, 4, 5]


def test_both_mutings(notifier, db, record, settle):
    """A muted subscriber stays muted if its channel is muted and unmuted."""
    notifier.subscribe("a", "a", record)
    notifier.subscribe("b", "a", record)
    notifier.mute_subscriber("a")
    notifier.mute_channels()
    notifier.unmute_channels()
    db.notify("a")
    settle(notifier)
    assert record.ids == ["b"]


def test_muting_outlives_replacing(notifier, db, record, settle):
    """Subscribing again doesn't unmute a subscriber or a channel."""
    notifier.subscribe(1, "a", record)
    notifier.mute_subscriber(1)
    notifier.subscribe(1, "a", record)
    notifier.add_channels(["b"])
    notifier.mute_channels("b")
    notifier.subscribe(2, "b", record)
    db.notify("a")
    db.notify("b")
    settle(notifier)
    assert record.calls == []
    notifier.unmute_subscriber(1)
    db.notify("a", "received")
    assert record.wait_for(1) == ["received"]


def test_muting_ends_what_waits(notifier, db, record, settle):
    """Notifications that wait when their channel is muted are dropped."""
    notifier.subscribe(1, "b", lambda *_: notifier.mute_channels("a"))
    notifier.subscribe(2, "a", record)
    db.execute("SELECT pg_notify(c, '') FROM unnest(ARRAY['b', 'a']) c")
    settle(notifier)
    notifier.unmute_channels("a")
    settle(notifier)
    assert record.calls == []
