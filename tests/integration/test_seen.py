"""What operators can see: log lines, counts, and reasons for delays."""

import logging
import threading

from pgnotifier import InlineDispatcher


def test_a_line_for_each_notification(notifier, db, record, caplog, eventually):
    """At DEBUG, a notification is logged with its channel, size and ids, without its payload."""
    notifier.subscribe("one", "a", record)
    notifier.subscribe(("two", 2), "a", record)
    notifier.add_channel("b")
    caplog.set_level(logging.DEBUG, "pgnotifier.routing")
    db.notify("a", "secret")
    db.notify("b", "")
    eventually(lambda: len(caplog.records) == 2)
    record.wait_for(2)
    first, second = caplog.records
    assert first.getMessage() == "received 6 bytes on channel 'a' for 'one', ('two', 2)"
    assert (first.pgnotifier_event, first.channel, first.size) == ("received", "a", 6)
    assert first.subscriptions == ["one", ("two", 2)]
    assert second.getMessage() == "received 0 bytes on channel 'b' for nobody"


def test_counts_by_channel(notifier, db, record, settle):
    """The status counts notifications by channel, and forgets channels that were removed."""
    notifier.subscribe(1, "a", record)
    notifier.subscribe(1, "b", record)
    for _ in range(3):
        db.notify("a")
    db.notify("b")
    record.wait_for(4)
    counts = {k: v for k, v in notifier.status().channel_counts.items() if k in "ab"}
    assert counts == {"a": 3, "b": 1}
    for number in range(300):
        notifier.subscribe(2, f"gone {number}", record)
        db.notify(f"gone {number}")
        record.wait_for(5 + number)
        notifier.unsubscribe(2, f"gone {number}")
    db.notify("a")
    record.wait_for(305)
    assert notifier.status().channel_counts["a"] == 4
    assert not [name for name in notifier.status().channel_counts if "gone" in name]
    assert len(notifier._lifecycle.listener.router._tallies) < 200


def test_why_a_dispatcher_does_not_get_on(pgnotifier_dsn, make_notifier, db, eventually):
    """While a dispatcher retries, the status shows since when, and why."""
    up = threading.Event()

    class Down(InlineDispatcher):
        def dispatch(self, batch):
            if not up.is_set():
                raise ConnectionError("no broker")
            super().dispatch(batch)

    notifier = make_notifier(pgnotifier_dsn, dispatcher=Down(), buffer_size=3)
    calls = []
    notifier.subscribe(1, "a", lambda *_: calls.append(1))
    db.notify("a")
    eventually(lambda: notifier.status().dispatchers[0].retrying)
    (found,) = notifier.status().dispatchers
    assert found.why == "ConnectionError: no broker"
    assert found.since >= notifier.status().since
    for number in range(10):
        db.notify("a", number)
    eventually(lambda: notifier.status().dispatchers[0].full)
    up.set()
    eventually(lambda: len(calls) == 11)
    eventually(lambda: not notifier.status().dispatchers[0].retrying)
    (found,) = notifier.status().dispatchers
    assert (found.since, found.why) == (None, None)


def test_why_nothing_is_read(pgnotifier_dsn, make_notifier, db, eventually):
    """While a full buffer keeps the reader from reading, the notifier's status says why."""
    begun, go_on = threading.Event(), threading.Event()

    def block(*_):
        begun.set()
        go_on.wait(30)

    notifier = make_notifier(pgnotifier_dsn, buffer_size=2)
    notifier.subscribe(1, "a", block)
    assert notifier.status().why is None
    try:
        db.notify("a")
        assert begun.wait(30)
        for number in range(10):
            db.notify("a", number)
        eventually(lambda: notifier.status().dispatchers[0].full)
        status = notifier.status()
        assert status.state == "listening"
        since = status.dispatchers[0].since.isoformat(timespec="seconds")
        assert status.why.startswith(f"nothing is read since {since}")
        assert "InlineDispatcher" in status.why
        assert status.to_dict()["why"] == status.why
    finally:
        go_on.set()
    eventually(lambda: notifier.status().why is None)


def test_why_it_is_still_starting(make_notifier, eventually):
    """While a notifier waits for its server, the status shows why it can't connect."""
    notifier = make_notifier("host=127.0.0.1 port=1", wait=True)
    notifier.add_channels("a", autorun=False)
    notifier.begin()
    eventually(lambda: notifier.status().why is not None)
    status = notifier.status()
    assert status.state == "starting"
    assert "Connection refused" in status.why
    assert "\n" not in status.why
