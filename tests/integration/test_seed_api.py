"""Every method of the notifier on a real server: what is live when, and for whom."""

import pytest

from pgnotifier import Notifier

IDS = [42, "x", (2, "y"), frozenset({1}), None, True, b"z", 1.5, object()]


def test_the_seed_script(notifier, db, record):
    """Channels are added and subscribed to, and callbacks get id, channel, payload and pid."""
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
    """A list, tuple, set, iterator or dict of names: all are heard, and all removed again."""
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
    """A channel is heard under exactly its name, whatever it looks like to SQL."""
    notifier.subscribe(1, channel, record)
    db.notify(channel.swapcase(), "other")
    db.notify(channel, "this")
    record.wait_for(1)
    assert record.calls[0][1:3] == (channel, "other" if channel == channel.swapcase() else "this")


@pytest.mark.parametrize("id", IDS, ids=[type(one).__name__ for one in IDS])
def test_any_hashable_id(notifier, db, record, id):
    """Whatever is hashable is an id; the callback gets that very object back."""
    notifier.subscribe(id, "a", record)
    db.notify("a")
    record.wait_for(1)
    assert record.ids[0] is id
    assert notifier.get_subscriptions() == {"a": {id: record}}
    notifier.unsubscribe(id, "a")
    assert notifier.get_channels() == set()


def test_all_ids_side_by_side(notifier, db, make_recorder):
    """Ids of all kinds live on one channel, and are called in the order they subscribed."""
    record = make_recorder()
    for one in IDS:
        notifier.subscribe(one, "a", record, autorun=False)
    notifier.start()
    db.notify("a")
    record.wait_for(len(IDS))
    assert record.ids == IDS


def test_one_id_on_several_channels(notifier, db, make_recorder):
    """The same id has a callback of its own on each channel; removing one leaves the others."""
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
    """The same id on the same channel replaces the callback at once, and keeps its place."""
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
    """The last subscription takes its channel along, added explicitly or not."""
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
    """Adding what is there and removing what isn't change nothing."""
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
    """Changing the set or the dicts that are returned changes nothing of the notifier."""
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
    """What is registered survives stopping; what is sent meanwhile isn't delivered later."""
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
    """Whatever had been read by then is delivered before `stop()` returns."""
    record = make_recorder()
    notifier.subscribe(1, "a", record)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 5000) n")
    eventually(lambda: notifier.status().received == 5000)
    assert notifier.stop() == 0
    assert record.payloads == list(range(1, 5001))


def test_stop_ends_the_session(notifier, db, eventually):
    """A stopped notifier has no session on the server, a running one has one of its name."""
    notifier.start()
    assert len(db.listening()) == 1
    notifier.notify("a")
    assert len(db.listening()) == 2
    notifier.stop()
    eventually(lambda: db.listening() == [])


def test_with(pgnotifier_dsn, db, record, eventually):
    """`with` stops at the end, also after an exception."""
    with pytest.raises(ZeroDivisionError), Notifier(pgnotifier_dsn, daemon=True) as notifier:
        notifier.subscribe(1, "a", record)
        db.notify("a")
        record.wait_for(1)
        raise ZeroDivisionError
    assert not notifier.is_running()
    eventually(lambda: db.listening() == [])


def test_restart_replaces_the_connection(notifier, db, record, eventually):
    """Restarting makes a new session that hears the same channels, without a gap."""
    notifier.subscribe(1, "a", record)
    (before,) = db.listening()
    notifier.restart()
    db.notify("a")
    record.wait_for(1)
    eventually(lambda: before not in db.listening() and len(db.listening()) == 1)
    assert notifier.status().gaps == 0


def test_restart_starts(notifier, db, record):
    """Restarting what isn't running starts it."""
    notifier.subscribe(1, "a", record, autorun=False)
    notifier.restart()
    assert notifier.is_running()
    db.notify("a")
    record.wait_for(1)
    assert notifier.status().gaps == 0


def test_order_under_load(notifier, db, make_recorder):
    """Notifications of several channels come in the order of their commits, each once."""
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
