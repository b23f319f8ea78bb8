"""Gaps are reported before later notifications are delivered."""

import threading

import pytest
from celery import Celery

from pgnotifier import ArgumentTypeError, Dispatcher, ThreadDispatcher
from pgnotifier._runtime import hooks as hook
from pgnotifier.contrib.celery import CeleryDispatcher

from .waiting import eventually

pytestmark = pytest.mark.usefixtures("quick")


def test_on_gap_comes_first(pgnotifier_dsn, sessions, make_notifier, ledger):
    """Nothing that is received after a gap is delivered before `on_gap` has returned."""
    reading, done = threading.Event(), threading.Event()

    def read_table(gap):
        ledger.gaps.append(gap)
        reading.set()
        assert done.wait(15)
        ledger.delivered.append(("read", None))

    notifier = make_notifier(pgnotifier_dsn, on_gap=read_table)
    notifier.subscribe(1, "orders", ledger.callback)
    sessions.notify("orders", 1)
    eventually(lambda: notifier.status().received == 1)  # or the session may end before
    sessions.terminate()
    assert reading.wait(15)
    sessions.notify("orders", 2)
    eventually(lambda: notifier.status().received == 2)
    eventually(lambda: ledger.delivered)
    assert ledger.delivered == [(1, "orders")]
    done.set()
    eventually(lambda: ledger.delivered == [(1, "orders"), ("read", None), (2, "orders")])


def test_on_gap_hangs(pgnotifier_dsn, sessions, make_notifier, ledger):
    """An `on_gap` that doesn't return holds up deliveries, but neither the reader nor `stop()`."""
    hanging, done = threading.Event(), threading.Event()

    def hang(_):
        hanging.set()
        done.wait(30)

    notifier = make_notifier(pgnotifier_dsn, on_gap=hang)
    notifier.subscribe(1, "orders", ledger.callback)
    sessions.terminate()
    assert hanging.wait(15)
    notifier.subscribe(1, "more", ledger.callback)
    sessions.notify("orders", 1)
    eventually(lambda: notifier.status().received == 1)
    assert ledger.delivered == []
    try:
        assert notifier.stop(10) == 0
        assert ledger.delivered == [(1, "orders")]
    finally:
        done.set()


def test_a_new_dispatcher_while_on_gap_hangs(pgnotifier_dsn, sessions, make_notifier):
    """While `on_gap` hangs, a change of dispatcher delivers nothing before the gap."""
    hanging, done = threading.Event(), threading.Event()

    def hang(_):
        hanging.set()
        assert done.wait(30)

    delivered = []

    def callback(id, *_):
        delivered.append(id)

    notifier = make_notifier(pgnotifier_dsn, on_gap=hang)
    notifier.subscribe("same", "orders", callback, on_gap=callback)
    notifier.subscribe("moved", "orders", callback, on_gap=callback)
    sessions.terminate()
    assert hanging.wait(15)
    by = ThreadDispatcher()
    notifier.subscribe("moved", "orders", callback, dispatcher=by, on_gap=callback)
    notifier.subscribe("new", "orders", callback, dispatcher=by)
    sessions.notify("orders", 1)
    eventually(lambda: notifier.status().received == 1)
    waiting = {status.name: status.waiting for status in notifier.status().dispatchers}
    assert waiting == {"InlineDispatcher": 1, "ThreadDispatcher": 1}
    assert delivered == []
    done.set()
    eventually(lambda: len(delivered) == 5)
    assert "new" in delivered
    for key in ("same", "moved"):
        assert [one for one in delivered if key in (one, one[0])] == [(key, "gap"), key]


def test_flapping_while_on_gap_hangs(
    pgnotifier_dsn, sessions, make_notifier, ledger, make_recorder, monkeypatch
):
    """Gaps that occur while `on_gap` hangs are merged: few are kept, and all are reported."""
    monkeypatch.setattr(hook, "MOST", 2)
    hanging, done = threading.Event(), threading.Event()
    own = make_recorder()
    gaps, states = [], []

    def hang(gap):
        gaps.append(gap)
        hanging.set()
        assert done.wait(60)

    def hang_too(change):
        states.append(change.state)
        assert done.wait(60)

    notifier = make_notifier(pgnotifier_dsn, on_gap=hang, on_state=hang_too)
    notifier.subscribe(1, "orders", ledger.callback, on_gap=own)
    for number in range(6):
        sessions.terminate()
        eventually(lambda number=number: notifier.status().gaps == number + 1)
        sessions.notify("orders", number)
        eventually(lambda number=number: notifier.status().received == number + 1)
    (deliverer,) = notifier._lifecycle.listener.deliverers.values()
    assert deliverer.buffer._markers == 3
    last = notifier.status().last_gap
    assert ledger.delivered == []
    done.set()
    eventually(lambda: len(ledger.delivered) == 6)
    assert ledger.delivered == [(number, "orders") for number in range(6)]
    assert len(gaps) == len(own.payloads) == 3
    assert gaps[-1].since < last.since
    assert gaps[-1].until == last.until
    eventually(lambda: len(states) == 3)
    assert states[-1] == "listening"


def test_a_failing_hook(pgnotifier_dsn, sessions, make_notifier, ledger, caplog):
    """After an `on_gap` that raises and unsubscribes, later notifications are still delivered."""

    def fail(_):
        notifier.unsubscribe(2, "orders")
        raise ZeroDivisionError

    notifier = make_notifier(pgnotifier_dsn, on_gap=fail)
    for key in (1, 2):
        notifier.subscribe(key, "orders", ledger.callback)
    sessions.terminate()
    eventually(lambda: "on_gap itself failed" in caplog.text)
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])


def test_on_gap_of_subscriptions(pgnotifier_dsn, sessions, make_notifier, make_recorder):
    """An unmuted subscription's own `on_gap` is called with the gap, before later notifications."""
    calls, gaps = [], []

    def callback(*arguments):
        calls.append(arguments)

    notifier = make_notifier(pgnotifier_dsn, on_gap=gaps.append)
    notifier.subscribe("a", "orders", callback, on_gap=callback)
    notifier.subscribe(("b", 2), "orders", callback, on_gap=callback)
    notifier.subscribe("c", "orders", callback)
    notifier.subscribe("d", "orders", callback, on_gap=callback)
    notifier.mute_subscriber("d")
    sessions.terminate()
    eventually(lambda: gaps)
    sessions.notify("orders", 1)
    eventually(lambda: len(calls) == 5)
    of_gaps, later = calls[:2], calls[2:]
    (gap,) = gaps
    assert of_gaps == [
        (("a", "gap"), "orders", gap.to_dict(), 0),
        (("b", 2, "gap"), "orders", gap.to_dict(), 0),
    ]
    assert [(key, payload) for key, _, payload, _ in later] == [("a", 1), (("b", 2), 1), ("c", 1)]


def test_as_a_task(pgnotifier_dsn, sessions, make_notifier):
    """With Celery, a subscription's `on_gap` is a task on its queue, sent before later ones."""
    app = Celery("gaps", broker="memory://", set_as_current=False)
    notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app), autorun=True)
    notifier.subscribe("resize", "images", print, on_gap=print, queue="low")
    assert {"pgnotifier.resize", "pgnotifier.resize.gap"} <= set(app.tasks)
    sessions.terminate()
    eventually(lambda: notifier.status().gaps == 1)
    sessions.notify("images", 1)
    with app.connection() as connection:
        queue = connection.SimpleQueue("low")
        names = [queue.get(timeout=15).headers["task"] for _ in range(2)]
    assert names == ["pgnotifier.resize.gap", "pgnotifier.resize"]
    notifier.subscribe("resize", "images", print, queue="low")
    assert "pgnotifier.resize.gap" not in app.tasks


def test_dropped(pgnotifier_dsn, sessions, make_notifier):
    """What an overflow policy drops is reported to the subscription's `on_gap`, in its place."""
    going_on, seen = threading.Event(), []

    class Slow(Dispatcher):
        def bind(self, subscription):
            return subscription.fn

        def dispatch(self, batch):
            assert going_on.wait(15)
            for one in batch.one_by_one():
                seen.append((one.binding.id, one.notification.payload))

    notifier = make_notifier(
        pgnotifier_dsn, dispatcher=Slow(), buffer_size=10, overflow="drop_newest"
    )
    notifier.subscribe("a", "orders", print, on_gap=print)
    for number in range(30):
        sessions.notify("orders", number)
    eventually(lambda: notifier.status().received == 30)
    going_on.set()
    eventually(lambda: ("a", "gap") in [key for key, _ in seen])
    numbers = [payload for key, payload in seen if key == "a"]
    assert numbers == list(range(len(numbers)))
    assert 10 <= len(numbers) < 30


def test_it_is_callable(make_notifier, pgnotifier_dsn):
    """An `on_gap` that isn't callable is refused, and nothing is registered."""
    notifier = make_notifier(pgnotifier_dsn)
    with pytest.raises(ArgumentTypeError, match="on_gap must be callable"):
        notifier.subscribe("a", "orders", print, on_gap="no")
    assert notifier.get_channels() == set()
