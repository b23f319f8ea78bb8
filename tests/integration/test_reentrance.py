"""Methods called in callbacks, and in many threads at once."""

import logging
import random
import threading
import time

import pytest

from pgnotifier import InlineDispatcher


def test_subscribe_inside(notifier, db, record):
    """A callback may subscribe; a notification that it sends afterwards is delivered."""

    def callback(id, channel, payload, pid):
        notifier.subscribe(payload, payload, record)
        notifier.add_channels(["more"])
        notifier.notify(payload, "from inside")

    notifier.subscribe(1, "a", callback)
    db.notify("a", "b")
    db.notify("a", "c")
    assert record.wait_for(2) == ["from inside"] * 2
    assert record.channels == ["b", "c"]
    assert notifier.get_channels() == {"a", "b", "c", "more"}


def test_unsubscribe_itself(notifier, db, make_recorder, settle):
    """A callback that unsubscribes itself isn't called again, although more had been received."""
    once, other = make_recorder(), make_recorder()

    def callback(*args):
        once(*args)
        notifier.unsubscribe(1, "a")

    notifier.subscribe(1, "a", callback)
    notifier.subscribe(2, "a", other)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 100) n")
    assert other.wait_for(100) == list(range(1, 101))
    settle(notifier)
    assert once.payloads == [1]
    assert list(notifier.get_subscriptions()["a"]) == [2]


@pytest.mark.parametrize("autorun", [True, False])
def test_remove_its_own_channel(notifier, db, record, settle, autorun):
    """Once a callback has removed its channel, no callback is called on the channel."""

    def callback(*args):
        record(*args)
        notifier.remove_channels(["a"], autorun)

    notifier.subscribe(1, "a", callback)
    notifier.subscribe(2, "a", callback)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 100) n")
    record.wait_for(1)
    settle(notifier)
    assert record.payloads == [1]
    assert notifier.get_channels() == set()


def test_replace_itself(notifier, db, record, settle):
    """If a callback replaces itself, the new one is called from the next notification on."""

    def callback(id, channel, payload, pid):
        notifier.subscribe(id, channel, record)

    notifier.subscribe(1, "a", callback)
    db.notify("a", "first")
    settle(notifier)
    db.notify("a", "second")
    assert record.wait_for(1) == ["second"]


def test_restart_inside(notifier, db, record):
    """A callback may restart the notifier, and is called again with the new connection."""

    def callback(*args):
        if args[2] == "restart":
            notifier.restart()
        record(*args)

    notifier.subscribe(1, "a", callback)
    (before,) = db.listening()
    db.notify("a", "restart")
    record.wait_for(1)
    db.notify("a", "after")
    assert record.wait_for(2) == ["restart", "after"]
    assert before not in db.listening()


def test_stop_inside(notifier, db, record, eventually):
    """A callback may stop the notifier; what was received before is delivered, and no more."""
    stopped = threading.Event()

    def callback(*args):
        record(*args)
        if not stopped.is_set():
            eventually(lambda: notifier.status().received == 3)
            assert notifier.stop() == 0
            stopped.set()

    notifier.subscribe(1, "a", callback)
    db.execute("SELECT pg_notify('a', n::text) FROM generate_series(1, 3) n")
    assert stopped.wait(20)
    assert not notifier.is_running()
    assert record.wait_for(3) == [1, 2, 3]
    eventually(lambda: db.listening() == [])
    notifier.start()
    db.notify("a", "again")
    assert record.wait_for(4)[3:] == ["again"]


def test_nested_calls(notifier, db, record):
    """A callback may subscribe the next one, which does the same, ten levels deep."""

    def at_depth(depth):
        def callback(*args):
            record(*args)
            if depth:
                notifier.subscribe("next", f"depth {depth - 1}", at_depth(depth - 1))
                notifier.notify(f"depth {depth - 1}", depth - 1)
                notifier.unsubscribe("next", f"depth {depth}")

        return callback

    notifier.subscribe("next", "depth 10", at_depth(10))
    db.notify("depth 10", "10")
    assert record.wait_for(11) == list(range(10, -1, -1))
    assert notifier.get_channels() == {"depth 0"}


@pytest.mark.parametrize("given_up", [False, True])
def test_subscribing_while_stopping(notifier, db, record, eventually, given_up):
    """A callback that subscribes while or after the notifier is stopped doesn't start it again."""
    reached, opened, done = threading.Event(), threading.Event(), threading.Event()

    def callback(*_):
        reached.set()
        assert opened.wait(20)
        notifier.subscribe("late", "b", record)
        notifier.add_channels(["c"])
        done.set()

    notifier.subscribe(1, "a", callback)
    db.notify("a")
    assert reached.wait(20)
    stopper = threading.Thread(target=notifier.stop, args=(0.05 if given_up else 20,))
    stopper.start()
    eventually(lambda: not notifier.is_running())
    if given_up:
        stopper.join()
    opened.set()
    assert done.wait(20)
    stopper.join()
    assert not notifier.is_running()
    assert notifier.get_channels() == {"a", "b", "c"}
    notifier.subscribe(2, "b", record)
    assert notifier.is_running()


def test_many_threads(notifier, db, make_recorder, settle):
    """After random changes from many threads, the channels are right, and all are listened to."""
    record, failures = make_recorder(), []
    others = [InlineDispatcher() for _ in range(20)]

    def work(number):
        dice, mine = random.Random(number), f"thread {number}"
        try:
            for turn in range(60):
                channel = f"{mine}, {dice.randrange(4)}"
                match dice.randrange(8):
                    case 0 | 1 | 2:
                        notifier.subscribe(turn, channel, record, dispatcher=dice.choice(others))
                    case 3:
                        for one in list(notifier.get_subscriptions().get(channel, {}))[:1]:
                            notifier.unsubscribe(one, channel)
                    case 4:
                        notifier.remove_channels([channel], autorun=dice.random() < 0.5)
                    case 5:
                        notifier.add_channels({channel, "shared"})
                    case 6:
                        notifier.mute_channels([channel])
                        notifier.unmute_channels([channel])
                    case 7:
                        notifier.status().to_dict()
                        assert "never" not in notifier.get_channels()
            notifier.add_channels([f"{mine}, {n}" for n in range(4)])
        except BaseException as exc:  # noqa: BLE001 - the test asserts that there are none
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    wanted = {f"thread {number}, {n}" for number in range(8) for n in range(4)}
    assert notifier.get_channels() - {"shared"} == wanted
    recorded = make_recorder()
    for channel in wanted:
        notifier.subscribe("late", channel, recorded, autorun=False)
        db.notify(channel)
    assert len(recorded.wait_for(len(wanted))) == len(wanted)
    assert set(recorded.channels) == wanted
    settle(notifier)
    kept = notifier.get_subscriptions()
    assert notifier.status().subscriptions == sum(map(len, kept.values()))


def test_starting_and_stopping_from_many_threads(notifier, db, record, eventually):
    """After random starts, stops and restarts in threads, a start leaves one listener."""
    failures = []

    def work(number):
        dice = random.Random(number)
        for _ in range(15):
            try:
                dice.choice([notifier.start, notifier.stop, notifier.restart])()
            except RuntimeError as exc:  # stopped by another thread meanwhile
                if type(exc).__name__ != "NotifierStoppedError":
                    failures.append(exc)
            except BaseException as exc:  # noqa: BLE001 - the test asserts that there are none
                failures.append(exc)

    notifier.subscribe(1, "a", record)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    notifier.start()
    eventually(lambda: len(db.listening()) == 1)
    record.calls.clear()
    db.notify("a", "once")
    db.notify("a", "end")
    assert record.wait_for(2) == ["once", "end"]


def test_unsubscribing_and_subscribing_at_once(notifier):
    """A `subscribe` right after an `unsubscribe` doesn't wait until the next heartbeat."""
    notifier.subscribe(1, "orders", print)
    notifier.unsubscribe(1, "orders")
    begun = time.monotonic()
    notifier.subscribe(2, "orders", print)
    assert time.monotonic() - begun < 10  # a heartbeat is 15 s


def test_notifying_while_notifying(pgnotifier_dsn, make_notifier, db):
    """`notify` and `stop` may be called during a `notify`, as `db_conf` does here."""
    inner = []

    def db_conf():
        if not inner:
            inner.append(1)
            notifier.notify("orders", "inner")
            notifier.stop()
        return pgnotifier_dsn

    notifier = make_notifier(db_conf)
    done = threading.Thread(target=notifier.notify, args=("orders", "outer"), daemon=True)
    done.start()
    done.join(20)
    assert not done.is_alive()
    notifier.notify("orders", "again")


def test_a_handler_of_the_log_that_subscribes(pgnotifier_dsn, make_notifier):
    """A log handler that subscribes on the reader's thread doesn't wait for the reader."""
    logger, inside = logging.getLogger("pgnotifier.listener"), []

    class Handler(logging.Handler):
        def emit(self, record):
            if not inside:
                inside.append(record)
                notifier.subscribe(2, "images", print)

    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", print)
    handler = Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        begun = time.monotonic()
        notifier.restart()
        assert time.monotonic() - begun < 10
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert inside
    assert notifier.get_channels() == {"orders", "images"}
