"""Replicas divide the subscriptions that are behind, and none of these has to wait for another."""

import threading
import time
from collections import Counter

import psycopg
import pytest
from published import DurableLog

from pgnotifier import InlineDispatcher, ThreadDispatcher
from pgnotifier._durable import pace, sharing, turn
from pgnotifier._durable.reading import Sizes
from pgnotifier.dispatchers import threads
from pgnotifier.durable import MaxLag

NAMES = ("a", "b", "c", "d")
PUBLISH = "SELECT pgnotifier.publish('paid', %s)"


@pytest.fixture
def log(pgnotifier_dsn):
    """Yield a session of the durable log, installed in the test's database."""
    log = DurableLog(pgnotifier_dsn)
    yield log
    log.connection.close()


def publish_many(log, count):
    """Publish that many entries, a hundred in each transaction."""
    log.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP PERFORM pgnotifier.publish('paid', i::text);"
        " IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$"
    )


def test_replicas_divide_what_is_behind(log, make_notifier, eventually):
    """With four subscriptions that are behind, four replicas have each something to deliver."""
    count, got, lock = 5000, Counter(), threading.Lock()
    by_name = {name: [] for name in NAMES}
    publish_many(log, count)

    def add(replica):
        notifier = make_notifier(log.dsn, dispatcher=InlineDispatcher())

        def note(name, _channel, payload, _pid):
            time.sleep(0.0003)
            with lock:
                got[replica] += 1
                by_name[name].append(payload)

        for name in NAMES:
            notifier.subscribe(name, "paid", note, durable=True, start="oldest")

    for replica in range(4):
        add(replica)
    eventually(lambda: len(got) == 4)
    assert sum(got.values()) < 4 * count, "the last one has got something at the end only"
    eventually(lambda: sum(got.values()) == 4 * count)
    for payloads in by_name.values():
        assert sorted(payloads) == list(range(1, count + 1))


def test_one_replica_reads_all(log, make_notifier, eventually):
    """Without others, one replica delivers all subscriptions to their end, side by side."""
    count, got, most = 5000, Counter(), []
    publish_many(log, count)
    notifier = make_notifier(log.dsn, dispatcher=InlineDispatcher())

    def note(name, *_):
        got[name] += 1
        most.append(max(got.values()) - min(got[one] for one in NAMES))

    for name in NAMES:
        notifier.subscribe(name, "paid", note, durable=True, start="oldest")
    eventually(lambda: got == dict.fromkeys(NAMES, count))
    assert max(most) < count, "one has got everything before another one has got anything"


def test_callbacks_that_hang(log, make_notifier, eventually):
    """Subscriptions with callbacks that hang keep the others waiting for a moment only."""
    count, got, go_on = 3000, Counter(), threading.Event()
    publish_many(log, count)
    notifier = make_notifier(log.dsn, dispatcher=ThreadDispatcher(max_pending=10 * count))

    def note(name, *_):
        if name != "d":
            go_on.wait()
        got[name] += 1

    for name in NAMES:
        notifier.subscribe(name, "paid", note, durable=True, start="oldest")
    eventually(lambda: got["d"] == count)
    assert set(got) == {"d"}
    go_on.set()
    eventually(lambda: got == dict.fromkeys(NAMES, count))


@pytest.fixture
def restless(monkeypatch):
    """Have replicas give subscriptions to each other, and look for them, all the time."""
    monkeypatch.setattr(turn, "LOCK_PAUSE", 0.001)
    monkeypatch.setattr(turn, "TURN_PAUSE", 0.01)
    monkeypatch.setattr(sharing, "OFFER_PAUSE", 0.001)
    monkeypatch.setattr(Sizes, "of", lambda _: Sizes(batch=10, unsynced=2, at_once=20))


@pytest.mark.usefixtures("restless")
def test_nothing_is_delivered_twice(log, make_notifier, eventually):
    """As long as nothing breaks, each entry is delivered once, in order, by one replica at a time.

    Most entries wait when the replicas begin. Two writers publish others one by one.
    """
    names = [f"{name}{number}" for name in NAMES for number in range(2)]
    got, busy, overlaps = {name: [] for name in names}, {}, []
    notifiers, before, each = [], 1200, 200
    publish_many(log, before)

    def add(replica, dispatcher):
        notifier = make_notifier(log.dsn, dispatcher=dispatcher)
        notifiers.append(notifier)

        def note(name, _channel, payload, _pid):
            other = busy.setdefault(name, replica)
            if payload % 50 == 0:
                time.sleep(0.001)
            got[name].append(payload)
            if other != replica:
                overlaps.append((name, payload, other, replica))
            busy.pop(name, None)

        for name in names:
            notifier.subscribe(name, "paid", note, durable=True, start="oldest")

    def write(first):
        with psycopg.connect(log.dsn, autocommit=True) as connection:
            for payload in range(first, first + each):
                connection.execute(PUBLISH, (str(payload),))
                time.sleep(0.002)

    for replica in range(3):
        add(replica, InlineDispatcher())
    add(3, ThreadDispatcher())
    parts = [range(1, before + 1), range(10_000, 10_000 + each), range(20_000, 20_000 + each)]
    writers = [threading.Thread(target=write, args=(part[0],)) for part in parts[1:]]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    expected = {payload for part in parts for payload in part}
    eventually(lambda: all(expected <= set(payloads) for payloads in got.values()))
    for notifier in notifiers:
        notifier.stop()
    repeated = {name: len(payloads) - len(expected) for name, payloads in got.items()}
    assert repeated == dict.fromkeys(names, 0)
    for payloads in got.values():
        assert [[one for one in payloads if one in part] for part in parts] == [*map(list, parts)]
    assert not overlaps


LEAVING = {
    "muted": lambda notifier: notifier.mute_subscriber("a"),
    "removed": lambda notifier: notifier.unsubscribe("a", "paid"),
}


@pytest.fixture(params=LEAVING.values(), ids=LEAVING.keys())
def leave(request):
    """Return a function that mutes or removes a subscription in one replica."""
    return request.param


def test_others_go_on(log, make_notifier, make_recorder, eventually, leave, monkeypatch):
    """A replica that mutes or removes a subscription leaves it to others once a callback returns.

    It doesn't keep it until the idle thread that has called that ends.
    """
    monkeypatch.setattr(threads, "IDLE", 3600.0)
    begun, go_on, record = threading.Event(), threading.Event(), make_recorder()

    def wait(*_):
        begun.set()
        go_on.wait(60)

    first = make_notifier(log.dsn, dispatcher=ThreadDispatcher())
    first.subscribe("a", "paid", wait, durable=True)
    publish_many(log, 10)
    assert begun.wait(60)
    make_notifier(log.dsn).subscribe("a", "paid", record, durable=True)
    leave(first)
    go_on.set()
    eventually(lambda: record.payloads[-9:] == list(range(2, 11)))


def test_others_report_what_was_dropped(log, make_notifier, make_recorder, eventually, leave):
    """The same holds if that replica was about to report a gap to the subscription."""
    begun, go_on, record = threading.Event(), threading.Event(), make_recorder()
    limited = {"durable": True, "max_lag": MaxLag(entries=2), "on_gap": record}

    def wait(_gap):
        begun.set()
        go_on.wait(60)

    log.execute("SELECT pgnotifier.limit_lag(pgnotifier.subscribe('a', 'paid'), 2, NULL, NULL)")
    publish_many(log, 10)
    log.execute("SELECT FROM pgnotifier.reclaim()")
    first = make_notifier(log.dsn, on_gap=wait)
    first.subscribe("a", "paid", make_recorder(), **limited)
    assert begun.wait(60)
    make_notifier(log.dsn).subscribe("a", "paid", record, **limited)
    leave(first)
    go_on.set()
    eventually(lambda: record.payloads[1:] == [9, 10])
    assert record.payloads[0]["dropped"]


def test_seeking_while_replicas_deliver(log, make_notifier, make_recorder, eventually, monkeypatch):
    """After `seek()`, others begin once the rest of the batch that is under way is delivered."""
    monkeypatch.setattr(pace, "SAVE_PAUSE", 0.05)
    begun, go_on, calls, record = threading.Event(), threading.Event(), [], make_recorder()

    def wait(_id, _channel, payload, _pid):
        if payload == 2:
            begun.set()
            go_on.wait(60)
        calls.append(payload)

    first = make_notifier(log.dsn, dispatcher=ThreadDispatcher())
    first.subscribe("a", "paid", wait, durable=True)
    publish_many(log, 10)
    assert begun.wait(60)
    make_notifier(log.dsn).subscribe("a", "paid", record, durable=True)
    first.seek("a", "paid", "now")
    time.sleep(0.3)  # it notices that when it saves its progress
    log.publish("paid", "next")
    time.sleep(0.7)  # long enough for others to take it
    early = record.payloads[:]
    go_on.set()
    eventually(lambda: "next" in calls + record.payloads)
    assert early == []
    assert [*calls, *record.payloads] == [*range(1, 11), "next"]
