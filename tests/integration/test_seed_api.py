"""Every method of the notifier, with a real server."""

import pytest

from pgnotifier import Notifier

IDS = [42, "x", (2, "y"), frozenset({1}), None, True, b"z", 1.5, object()]


def test_the_seed_script(notifier, db, record):
    """Channels are added and subscribed to; callbacks get id, channel, payload and pid."""
    notifier.add_channels(["my_app_name", "ch3"])
    notifier.subscribe(42, "ch1", record)
    notifier.subscribe("an_id", "ch2", lambda *_: None)
    notifier.subscribe((2, "another_id"), "ch2", record)
    assert notifier.is_running()
    db.notify("ch1", '{"topic": "abc", "data": "some data", "something": "else"}')
    db.notify("ch2", "plain text")
    db.notify("my_app_name", "nobody subscribed")
    db.notify("ch2", "(1, 2)")
    record.wait_for(3)
    assert record.calls == [
        (42, "ch1", {"topic": "abc", "data": "some data", "something": "else"}, db.pid),
        ((2, "another_id"), "ch2", "plain text", db.pid),
        ((2, "another_id"), "ch2", (1, 2), db.pid),
    ]
    assert notifier.get_channels() == {"my_app_name", "ch1", "ch2", "ch3"}


@pytest.mark.parametrize(
    "form",
    [list, tuple, set, frozenset, iter, dict.fromkeys, lambda names: dict.fromkeys(names).keys()],
)
def test_any_iterable_of_channels(notifier, settle, form):
    """Channels can be a list, tuple, set, iterator or dict of names, to add and to remove."""
    names = ["a", "b", 'My "odd" channel; drop table x']
    notifier.add_channels(form(names))
    assert notifier.get_channels() == set(names)
    notifier.remove_channels(form(names[1:]))
    assert notifier.get_channels() == {"a"}
    settle(notifier)


def test_one_channel_as_a_str(notifier):
    """A str is one channel, and not its letters."""
    notifier.add_channels("abc")
    notifier.add_channel("def")
    assert notifier.get_channels() == {"abc", "def"}
    notifier.remove_channels("abc")
    notifier.remove_channel("def")
    assert notifier.get_channels() == set()


@pytest.mark.parametrize(
    "channel",
    ['My "odd" channel; drop table x', "MixedCase", "ü" * 31, "a" * 63, "it's", "%s", " ", "😀"],
)
def test_names_are_taken_literally(notifier, db, record, channel):
    """A channel's name is taken literally, also if it has special characters or capitals."""
    notifier.subscribe(1, channel, record)
    db.notify(channel.swapcase(), "other")
    db.notify(channel, "this")
    record.wait_for(1)
    assert record.calls[0][1:3] == (channel, "other" if channel == channel.swapcase() else "this")


@pytest.mark.parametrize("id", IDS, ids=[type(one).__name__ for one in IDS])
def test_any_hashable_id(notifier, db, record, id):
    """Any hashable object can be an id; the callback gets the same object."""
    notifier.subscribe(id, "a", record)
    db.notify("a")
    record.wait_for(1)
    assert record.ids[0] is id
    assert notifier.get_subscriptions() == {"a": {id: record}}
    notifier.unsubscribe(id, "a")
    assert notifier.get_channels() == set()


def test_all_ids_side_by_side(notifier, db, make_recorder):
    """Ids of all types can be on one channel, and are called in the order of subscribing."""
    record = make_recorder()
    for one in IDS:
        notifier.subscribe(one, "a", record, autorun=False)
    notifier.start()
    db.notify("a")
    record.wait_for(len(IDS))
    assert record.ids == IDS


def test_one_id_on_several_channels(notifier, db, make_recorder):
    """An id has a separate callback on each channel; removing one leaves the others."""
    first, second = make_recorder(), make_recorder()
    notifier.subscribe(1, "a", first)
    notifier.subscribe(1, "b", second)
    db.notify("a", "for first")
    db.notify("b", "for second")
    assert first.wait_for(1) == ["for first"]
    assert second.wait_for(1) == ["for second"]
    notifier.unsubscribe(1, "a")
    assert notifier.get_subscriptions() == {"b": {1: second}}


def test_replacing_a_callback(notifier, db, make_recorder):
    """Subscribing an id again replaces the callback at once, and keeps its place in the order."""
    order, old = [], make_recorder()
    notifier.subscribe("x", "a", old)
    notifier.subscribe("y", "a", lambda *_: order.append("y"))
    notifier.subscribe("x", "a", lambda *_: order.append("new x"))
    db.notify("a")
    db.notify("a")
    notifier.subscribe("done", "b", done := make_recorder())
    db.notify("b")
    done.wait_for(1)
    assert order == ["new x", "y"] * 2
    assert old.calls == []
    assert list(notifier.get_subscriptions()["a"]) == ["x", "y"]


def test_unsubscribing_and_the_channel(notifier, db, record, settle):
    """Removing a channel's last subscription removes the channel, even if it was added before."""
    notifier.add_channels(["a"])
    notifier.subscribe(1, "a", record)
    notifier.subscribe(2, "a", record)
    notifier.unsubscribe(1, "a")
    assert notifier.get_channels() == {"a"}
    db.notify("a")
    record.wait_for(1)
    notifier.unsubscribe(2, "a")
    assert notifier.get_channels() == set()
    db.notify("a")
    settle(notifier)
    assert record.ids == [2]


def test_no_ops(notifier, db, record):
    """Adding channels that are there, and removing those that aren't, changes nothing."""
    notifier.subscribe(1, "a", record)
    notifier.add_channels(["a"])
    notifier.add_channels([])
    notifier.remove_channels([])
    notifier.remove_channels(["zzz"])
    notifier.unsubscribe(2, "a")
    notifier.unsubscribe(1, "zzz")
    notifier.start()
    notifier.run()
    assert notifier.get_subscriptions() == {"a": {1: record}}
    assert notifier.get_channels() == {"a"}
    db.notify("a")
    record.wait_for(1)
    assert notifier.status().reconnects == 0


def test_what_is_returned_is_a_copy(notifier, record):
    """Changing the returned set or dicts doesn't change the notifier."""
    notifier.subscribe(1, "a", record, autorun=False)
    notifier.add_channels(["b"], autorun=False)
    channels, subscriptions = notifier.get_channels(), notifier.get_subscriptions()
    assert type(channels) is set
    assert type(subscriptions) is type(subscriptions["a"]) is dict
    assert subscriptions == {"a": {1: record}}
    channels.clear()
    subscriptions["a"].clear()
    subscriptions.clear()
    assert notifier.get_channels() == {"a", "b"}
    assert notifier.get_subscriptions() == {"a": {1: record}}


def test_start_stop_start(notifier, db, record, settle):
    """Subscriptions survive a stop; notifications sent meanwhile aren't delivered later."""
    notifier.subscribe(1, "a", record)
    assert notifier.stop() == 0
    assert not notifier.is_running()
    assert notifier.stop() == 0
    db.notify("a", "meanwhile")
    notifier.run()
    assert notifier.is_running()
    db.notify("a", "again")
    assert record.wait_for(1) == ["again"]
    settle(notifier)
    assert record.payloads == ["again"]


def test_stop_delivers_what_was_received(notifier, db, make_recorder, eventually):
    """`stop()` delivers all that was received before it returns."""
    record = make_recorder()
    notifier.subscribe(1, "a", record)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 5000) n")
    eventually(lambda: notifier.status().received == 5000)
    assert notifier.stop() == 0
    assert record.payloads == list(range(1, 5001))


def test_stop_ends_the_session(notifier, db, eventually):
    """A running notifier has a session for listening, and one for `notify`; `stop` ends both."""
    notifier.start()
    assert len(db.listening()) == 1
    notifier.notify("a")
    assert len(db.listening()) == 2
    notifier.stop()
    eventually(lambda: db.listening() == [])


def test_with(pgnotifier_dsn, db, record, eventually):
    """A `with` block stops the notifier at its end, also after an exception."""
    with pytest.raises(ZeroDivisionError), Notifier(pgnotifier_dsn, daemon=True) as notifier:
        notifier.subscribe(1, "a", record)
        db.notify("a")
        record.wait_for(1)
        raise ZeroDivisionError
    assert not notifier.is_running()
    eventually(lambda: db.listening() == [])


def test_restart_replaces_the_connection(notifier, db, record, eventually):
    """`restart` makes a new session that listens to the same channels, without a gap."""
    notifier.subscribe(1, "a", record)
    (before,) = db.listening()
    notifier.restart()
    db.notify("a")
    record.wait_for(1)
    eventually(lambda: before not in db.listening() and len(db.listening()) == 1)
    assert notifier.status().gaps == 0


def test_restart_starts(notifier, db, record):
    """`restart` starts a notifier that isn't running."""
    notifier.subscribe(1, "a", record, autorun=False)
    notifier.restart()
    assert notifier.is_running()
    db.notify("a")
    record.wait_for(1)
    assert notifier.status().gaps == 0


def test_order_under_load(notifier, db, make_recorder):
    """Notifications on several channels are delivered once each, in commit order."""
    record = make_recorder()
    for channel in "abc":
        notifier.subscribe(channel, channel, record)
    for start in range(0, 30_000, 3000):
        db.execute(
            "SELECT pg_notify(chr(97 + n %% 3), n::text) FROM generate_series(%s::int, %s) n",
            start,
            start + 2999,
        )
    record.wait_for(30_000)
    assert record.payloads == list(range(30_000))
    assert record.channels == [chr(97 + n % 3) for n in range(30_000)]
