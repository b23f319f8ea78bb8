"""Changes of channels on a live connection, under a stream of notifications."""

import subprocess
import sys
import time

import pytest

from pgnotifier._connection.session import Session

STREAM = """
import sys, threading, time, psycopg
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    begun, sent = time.monotonic(), 0
    while not ended.is_set():
        connection.execute("SELECT pg_notify('stream', %s)", (str(sent),))
        sent += 1
        ended.wait(max(0.0, begun + sent / 2000 - time.monotonic()))
print(sent, time.monotonic() - begun)
"""


@pytest.fixture
def stream(pgnotifier_dsn):
    """Yield a process that notifies `stream` 2,000 times a second until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", STREAM, pgnotifier_dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.fixture
def queries(monkeypatch):
    """Return a list of the LISTEN and UNLISTEN queries that notifiers send.

    The other queries check each second whether the server is there.
    """
    sent, send = [], Session.send

    def counting(self, query):
        if b"LISTEN" in query:
            sent.append(query)
        send(self, query)

    monkeypatch.setattr(Session, "send", counting)
    return sent


def test_under_a_stream(notifier, stream, make_recorder):
    """While channels are added and removed, another one gets each notification once, in order."""
    record, other = make_recorder(), make_recorder()
    notifier.subscribe("stream", "stream", record)
    record.wait_for(200)
    for number in range(250):
        notifier.add_channels([f"a {number}", f"b {number}"])
        notifier.subscribe(number, f"c {number}", other)
        notifier.remove_channels([f"a {number}", f"b {number}"])
        notifier.unsubscribe(number, f"c {number}")
    record.wait_for(len(record.calls) + 200)
    sent = stream.communicate("")[0].split()[0]
    record.wait_for(int(sent))
    assert record.payloads == list(range(int(sent)))
    assert other.calls == []
    assert notifier.get_channels() == {"stream"}
    status = notifier.status()
    assert status.reconnects == status.gaps == status.errors == 0


def test_committed_right_after_subscribing(notifier, db, make_recorder):
    """A notification that is committed after `subscribe` has returned is always delivered."""
    for number in range(300):
        record = make_recorder()
        notifier.subscribe(number, f"channel {number}", record)
        db.notify(f"channel {number}", number)
        assert record.wait_for(1) == [number]


def test_committed_right_after_adding_again(notifier, db, make_recorder):
    """It is also always delivered if the same channel is added and removed again and again."""
    for number in range(300):
        record = make_recorder()
        notifier.subscribe(1, "a", record)
        db.notify("a", number)
        assert record.wait_for(1) == [number]
        notifier.unsubscribe(1, "a")


@pytest.mark.parametrize("autorun", [True, False])
def test_committed_right_after_removing(notifier, db, record, settle, autorun):
    """A notification that is committed after `remove_channels` has returned isn't delivered."""
    for number in range(300):
        notifier.subscribe(1, f"channel {number}", record)
        notifier.remove_channels(f"channel {number}", autorun)
        db.notify(f"channel {number}", number)
    settle(notifier)
    assert record.payloads == []


def test_committed_between_removing_and_subscribing_again(notifier, db, record, settle):
    """It isn't delivered to a later subscription to the channel either."""
    for number in range(300):
        notifier.subscribe(number, "a", record)
        db.notify("a", "received")
        record.wait_for(number + 1)
        notifier.remove_channels("a")
        db.notify("a", "between")
    settle(notifier)
    assert record.payloads == ["received"] * 300


def test_a_removal_ends_what_is_on_its_way(notifier, db, make_recorder, settle):
    """Notifications that were received before a removal, but not delivered, are dropped."""
    record = make_recorder()

    def remove(*_):
        notifier.remove_channels(["a"])

    notifier.subscribe(1, "b", remove)
    notifier.subscribe(2, "a", record)
    db.execute("SELECT pg_notify(c, '') FROM unnest(ARRAY['b', 'a']) c")
    settle(notifier)
    assert record.calls == []


def test_ten_thousand_channels(notifier, db, queries, make_recorder):
    """10,000 channels are added in one round trip, listened to, and removed in another one."""
    names = [f"channel {number}" for number in range(10_000)]
    notifier.start()
    del queries[:]
    begun = time.monotonic()
    notifier.add_channels(names)
    taken = time.monotonic() - begun
    assert taken < 5
    assert len(queries) == 1
    assert queries[0].count(b"LISTEN") == 10_000
    record = make_recorder()
    for name in names:
        notifier.subscribe("all", name, record, autorun=False)
    db.execute("SELECT pg_notify('channel ' || n, n::text) FROM generate_series(0, 9999) n")
    assert record.wait_for(10_000) == list(range(10_000))
    del queries[:]
    notifier.remove_channels(names)
    assert notifier.get_channels() == set()
    notifier.add_channels(["a"])
    assert len(queries) == 2
    assert queries[0].count(b"UNLISTEN") == 10_000


def test_starting_with_ten_thousand_channels(notifier, db, queries, make_recorder):
    """A start listens to all channels in one round trip."""
    notifier.add_channels((f"channel {number}" for number in range(10_000)), autorun=False)
    record = make_recorder()
    notifier.subscribe(1, "channel 9999", record, autorun=False)
    notifier.start()
    assert len(queries) == 1
    db.notify("channel 9999")
    record.wait_for(1)


def test_one_change_is_one_round_trip(notifier, queries):
    """Each live change takes one query; one that changes nothing on the server takes none."""
    notifier.start()
    del queries[:]
    notifier.subscribe(1, "a", print)
    notifier.add_channels(["b", "c"])
    assert len(queries) == 2
    notifier.unsubscribe(2, "a")
    notifier.mute_channels()
    notifier.add_channels([])
    notifier.add_channels(["d"], autorun=False)
    assert len(queries) == 2
