"""Subscribing an id again while notifications wait, with a real server."""

import threading

import pytest

from pgnotifier import InlineDispatcher, ListenRefusedError
from pgnotifier._connection.session import Session


def test_nothing_is_dropped(notifier, db, record, make_recorder):
    """If a slow callback is replaced, the new one gets all notifications that waited."""
    other = make_recorder()
    begun, go_on = threading.Event(), threading.Event()

    def slow(*call):
        record(*call)
        begun.set()
        assert go_on.wait(20)

    notifier.subscribe(1, "a", slow)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 110) AS n")
    assert begun.wait(20)
    notifier.subscribe(1, "a", other)
    notifier.mute_subscriber(1)
    notifier.unmute_subscriber(1)
    go_on.set()
    assert other.wait_for(109) == list(range(2, 111))
    assert record.payloads == [1]
    assert notifier.status().gaps == 0


@pytest.mark.parametrize("autorun", [True, False])
def test_to_a_new_dispatcher_under_a_stream(notifier, db, make_recorder, autorun):
    """With 30 changes of dispatcher, 3,000 notifications are delivered once each, in order."""
    record = make_recorder()
    notifier.subscribe(0, "a", record)
    dispatchers = [InlineDispatcher() for _ in range(3)]
    for number in range(30):
        db.execute(
            "SELECT pg_notify('a', n::text) FROM generate_series(%s::int, %s) AS n",
            number * 100,
            number * 100 + 99,
        )
        notifier.subscribe(0, "a", record, autorun, dispatcher=dispatchers[number % 3])
    assert record.wait_for(3000) == list(range(3000))


def test_to_a_new_dispatcher_while_the_buffer_is_full(
    make_notifier, pgnotifier_dsn, db, record, eventually
):
    """If a full buffer blocks the reader, it goes on once a new dispatcher has taken over."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*call):
        record(*call)
        begun.set()
        assert go_on.wait(20)

    notifier = make_notifier(pgnotifier_dsn, buffer_size=200)
    notifier.subscribe(1, "a", slow)
    for number in range(0, 1000, 100):
        db.execute(
            "SELECT pg_notify('a', n::text) FROM generate_series(%s::int, %s) AS n",
            *(number, number + 99),
        )
    assert begun.wait(20)
    eventually(lambda: notifier.status().dispatchers[0].full)
    notifier.subscribe(1, "a", record, dispatcher=InlineDispatcher())
    go_on.set()
    db.notify("a", 1000)
    assert record.wait_for(1001) == list(range(1001))


def test_a_refused_listen(notifier, db, record, make_recorder, monkeypatch):
    """If LISTEN is refused, the previous callback gets what waits and what comes later."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*call):
        record(*call)
        begun.set()
        assert go_on.wait(20)

    notifier.subscribe(1, "a", slow)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 5) AS n")
    assert begun.wait(20)
    send = Session.send

    def refused(self, query):
        send(self, b"LISTEN 1" if b"LISTEN" in query else query)

    monkeypatch.setattr(Session, "send", refused)
    with pytest.raises(ListenRefusedError):
        notifier.subscribe(1, "a", make_recorder(), dispatcher=InlineDispatcher())
    monkeypatch.undo()
    db.notify("a", 6)
    go_on.set()
    assert record.wait_for(6) == [1, 2, 3, 4, 5, 6]
