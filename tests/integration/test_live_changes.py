"""Changes of the channels on the running connection, under a stream of notifications."""

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
    """Yield a process that sends numbers on `stream`, 2,000 a second; closing its stdin ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", STREAM, pgnotifier_dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.fixture
def queries(monkeypatch):
    """Return the list of the queries about channels that notifiers send to the server.

    The others ask whether it is there, whenever a second has passed.
    """
    sent, send = [], Session.send

    def counting(self, query):
        if b"LISTEN" in query:
            sent.append(query)
        send(self, query)

    monkeypatch.setattr(Session, "send", counting)
    return sent


def test_under_a_stream(notifier, stream, make_recorder):
    """500 adds and 500 removes of channels lose nothing of another, double nothing, keep order."""
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
    """A notification that is committed once `subscribe` has returned is delivered, each time."""
    for number in range(300):
        record = make_recorder()
        notifier.subscribe(number, f"channel {number}", record)
        db.notify(f"channel {number}", number)
        assert record.wait_for(1) == [number]


def test_committed_right_after_adding_again(notifier, db, make_recorder):
    """The same holds for one channel that comes and goes."""
    for number in range(300):
        record = make_recorder()
        notifier.subscribe(1, "a", record)
        db.notify("a", number)
        assert record.wait_for(1) == [number]
        notifier.unsubscribe(1, "a")


@pytest.mark.parametrize("autorun", [True, False])
def test_committed_right_after_removing(notifier, db, record, settle, autorun):
    """A notification that is committed once `remove_channels` has returned never is."""
    for number in range(300):
        notifier.subscribe(1, f"channel {number}", record)
        notifier.remove_channels(f"channel {number}", autorun)
        db.notify(f"channel {number}", number)
    settle(notifier)
    assert record.payloads == []


def test_committed_between_removing_and_subscribing_again(notifier, db, record, settle):
    """Nor is it delivered to whoever subscribes to the channel afterwards."""
    for number in range(300):
        notifier.subscribe(number, "a", record)
        db.notify("a", "heard")
        record.wait_for(number + 1)
        notifier.remove_channels("a")
        db.notify("a", "between")
    settle(notifier)
    assert record.payloads == ["heard"] * 300


def test_a_removal_ends_what_is_on_its_way(notifier, db, make_recorder, settle):
    """Notifications received, but not delivered by the time of the removal, aren't delivered."""
    record = make_recorder()

    def remove(*_):
        notifier.remove_channels(["a"])

    notifier.subscribe(1, "b", remove)
    notifier.subscribe(2, "a", record)
    db.execute("SELECT pg_notify(c, '') FROM unnest(ARRAY['b', 'a']) c")
    settle(notifier)
    assert record.calls == []


def test_ten_thousand_channels(notifier, db, queries, make_recorder):
    """10,000 channels are added in one round trip, all are heard, and removed in another one."""
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
    """A start listens to everything in one round trip."""
    notifier.add_channels((f"channel {number}" for number in range(10_000)), autorun=False)
    record = make_recorder()
    notifier.subscribe(1, "channel 9999", record, autorun=False)
    notifier.start()
    assert len(queries) == 1
    db.notify("channel 9999")
    record.wait_for(1)


def test_one_change_is_one_round_trip(notifier, queries):
    """Each live change costs one query, and one that changes nothing on the server none."""
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
