"""Replicas divide the subscriptions that are behind, and none of these has to wait for another."""

import threading
import time
from collections import Counter

import pytest
from published import DurableLog

from pgnotifier import InlineDispatcher, ThreadDispatcher

NAMES = ("a", "b", "c", "d")


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
