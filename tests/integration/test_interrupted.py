"""Calls in the middle of the package's code, as signal handlers and finalizers make them.

A trace function interrupts one line of the package at a time, and the tests try many lines.
"""

import contextlib
import logging
import sys
import threading
import time
from pathlib import Path

import pytest

import pgnotifier
from pgnotifier import InlineDispatcher, Notifier, ThreadDispatcher

ROOT = str(Path(pgnotifier.__file__).parent)
STALLED = 10.0
"""Seconds that no call takes, unless it is in a deadlock; such waits end after 30 seconds."""


class Interruption:
    """Calls a function before the n-th executed line of the package.

    Attributes:
        happened: Whether the function was called.
        took: How many seconds the call took; None until it has returned.
    """

    def __init__(self, at, call):
        self.happened = False
        self.took = None
        self._left = at
        self._call = call

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def trace(self, frame, event, _):
        """Count a line, and call the function once `at` lines were counted."""
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        if event == "line" and not self.happened:
            self._left -= 1
            if self._left < 0:
                self.happened = True
                begun = time.monotonic()
                self._call()
                self.took = time.monotonic() - begun
        return self.trace

    def trace_thread(self, name):
        """Return a trace function for `threading.settrace` that counts lines of certain threads."""

        def trace(*args):
            is_meant = threading.current_thread().name.startswith(name)
            return self.trace(*args) if is_meant else None

        return trace


OTHER = InlineDispatcher()


@pytest.mark.parametrize(
    ("change", "is_made"),
    [
        (
            lambda n: n.subscribe("old", "a", repr, autorun=False, dispatcher=OTHER),
            lambda n: n.get_subscriptions()["a"]["old"] is repr,
        ),
        (
            lambda n: n.subscribe("new", "a", repr, autorun=False),
            lambda n: n.get_subscriptions()["a"]["new"] is repr,
        ),
        (
            lambda n: n.unsubscribe("old", "b", autorun=False),
            lambda n: "b" not in n.get_channels(),
        ),
        (
            lambda n: n.mute_subscriber("old", "a"),
            lambda n: n._lifecycle.registrar.registry.binding("old", "a").subscription.muted,
        ),
    ],
)
def test_no_change_is_lost(change, is_made):
    """If changes interrupt a change at any line, all are made, and the registry is consistent."""
    at, happened = -1, True
    while happened:
        at += 1
        notifier = Notifier("host=nowhere", dispatcher=InlineDispatcher())
        notifier.subscribe("old", "a", print, autorun=False)
        notifier.subscribe("old", "b", print, autorun=False)
        notifier.subscribe("gone", "a", print, autorun=False)

        def interrupt(notifier=notifier):
            notifier.subscribe("inner", "a", len, autorun=False, dispatcher=OTHER)
            notifier.add_channels("c", autorun=False)
            notifier.unsubscribe("gone", "a", autorun=False)
            notifier.status()

        with Interruption(at, interrupt) as interruption:
            change(notifier)
        happened = interruption.happened
        assert is_made(notifier), at
        registrar, kept = notifier._lifecycle.registrar, notifier.get_subscriptions()
        assert ("inner" in kept["a"]) == ("c" in notifier.get_channels()) == happened, at
        assert ("gone" in kept["a"]) == (not happened), at
        bindings = [b for name in registrar.registry for b in registrar.registry.bindings(name)]
        uses = [binding.dispatcher for binding in bindings]
        assert registrar._uses == {by: uses.count(by) for by in uses}, at
        assert all(b.live != b.subscription.muted for b in bindings), at
        left = (*registrar._changes, *registrar._leaving, *registrar._unsettled)
        assert left == (), at
    assert at > 20


def test_one_that_fails(caplog):
    """A change that is put off and then fails is logged, because no caller can catch the error."""
    notifier, at = Notifier(None), -1
    while "change_failed" not in [getattr(one, "pgnotifier_event", "") for one in caplog.records]:
        at += 1
        assert at < 200

        def interrupt():
            with contextlib.suppress(pgnotifier.ConfigurationError):  # if no change is interrupted
                notifier.start()

        with Interruption(at, interrupt):
            notifier.add_channels("a", autorun=False)
    assert notifier.get_channels() == {"a"}
    assert not notifier.is_running()


@pytest.mark.parametrize("change", ["subscribe", "restart", "stop"])
def test_while_it_runs(pgnotifier_dsn, db, make_notifier, make_recorder, eventually, change):
    """A running notifier's change is interrupted by another: both are made, without a deadlock."""
    notifier = make_notifier(pgnotifier_dsn)
    record = make_recorder()
    notifier.subscribe("base", "base", record)
    outer = {
        "subscribe": lambda: notifier.subscribe("outer", "outer", record),
        "restart": notifier.restart,
        "stop": lambda: (notifier.stop(), notifier.start()),
    }[change]
    for at in range(0, 400, 9):
        channel = f"inner {at}"

        def interrupt(channel=channel):
            notifier.subscribe("inner", channel, record)
            notifier.notify("base", "from inside")
            notifier.status()

        with Interruption(at, interrupt) as interruption:
            outer()
        if not interruption.happened:
            break
        assert interruption.took < STALLED, at
        notifier.start()
        notifier.add_channels("live")  # then changes that were put off are live too
        db.notify(channel, at)
        eventually(lambda channel=channel: channel in record.channels)
        notifier.unsubscribe("outer", "outer")
        notifier.remove_channels(channel)
    assert at > 9


@pytest.mark.parametrize(
    ("thread", "step"),
    [
        ("pgnotifier-reader", 61),
        ("pgnotifier-InlineDispatcher", 13),
        ("pgnotifier-ThreadDispatcher", 13),
        ("pgnotifier-connect", 13),
    ],
)
@pytest.mark.parametrize("change", ["subscribe", "stop"])
def test_on_threads_of_ours(
    pgnotifier_dsn, db, make_notifier, make_recorder, eventually, thread, step, change
):
    """A change or `stop` on one of the package's threads doesn't wait for that thread."""
    happened, at = True, 0
    while happened:
        at += step
        by = ThreadDispatcher() if "Thread" in thread else None
        notifier, record = make_notifier(pgnotifier_dsn, dispatcher=by), make_recorder()
        inner = make_recorder()
        notifier.subscribe("base", "base", record, autorun=False)

        def interrupt(notifier=notifier, inner=inner):
            if change == "stop":
                notifier.stop()
            else:
                notifier.subscribe("inner", "inner", inner)

        interruption = Interruption(at, interrupt)
        threading.settrace(interruption.trace_thread(thread))
        try:
            notifier.start()
            db.notify("base", at)
            eventually(lambda n=notifier, calls=record.calls: calls or not n.is_running())
        except pgnotifier.NotifierStoppedError:
            assert change == "stop"
        finally:
            threading.settrace(None)
        happened = interruption.happened
        if happened:
            eventually(lambda interruption=interruption: interruption.took is not None)
            assert interruption.took < 4, at  # stop() would take 5
        if happened and change == "subscribe":
            notifier.add_channels("live")
            db.notify("inner", at)
            assert inner.wait_for(1) == [at]
        notifier.stop()
    assert at > step


def test_db_conf_that_subscribes(pgnotifier_dsn, db, make_notifier, make_recorder, eventually):
    """`db_conf` may subscribe and start the notifier, at a reconnect too, without a deadlock."""
    record, took = make_recorder(), []

    def db_conf():
        begun = time.monotonic()
        notifier.subscribe("inner", f"inner {len(took)}", record)
        notifier.start()
        took.append(time.monotonic() - begun)
        return pgnotifier_dsn

    notifier = make_notifier(db_conf)
    notifier.subscribe("base", "base", record)
    db.notify("inner 0", "at the start")
    assert record.wait_for(1) == ["at the start"]
    count = len(took)
    db.terminate()
    eventually(lambda: notifier.status().reconnects == 1 and len(took) > count)
    notifier.restart()
    db.notify(f"inner {count}", "after a loss")
    assert record.wait_for(2)[1:] == ["after a loss"]
    assert max(took) < STALLED


def test_a_dispatcher_that_subscribes(pgnotifier_dsn, db, make_notifier, record):
    """A dispatcher may subscribe when it is opened, before the reader runs."""

    class Opening(InlineDispatcher):
        def open(self):
            notifier.subscribe("inner", "inner", record, dispatcher=InlineDispatcher())
            notifier.start()

    notifier = make_notifier(pgnotifier_dsn, dispatcher=Opening())
    begun = time.monotonic()
    notifier.subscribe("base", "base", record)
    assert time.monotonic() - begun < STALLED
    db.notify("inner", 1)
    assert record.wait_for(1) == [1]


@pytest.mark.parametrize("explicitly", [False, True])
def test_a_handler_of_the_log_that_starts_it(
    pgnotifier_dsn, make_notifier, record, eventually, explicitly
):
    """A log handler that starts the notifier on the reader that is stopping doesn't wait for it."""
    logger, raised = logging.getLogger("pgnotifier.states"), []

    class Handler(logging.Handler):
        def emit(self, entry):
            if getattr(entry, "pgnotifier_event", None) != "stopped" or raised:
                return
            try:
                raised.append(None)
                if explicitly:
                    notifier.start()
                else:
                    notifier.subscribe("inner", "inner", record)
            except pgnotifier.NotifierStoppedError as exc:
                raised[0] = exc

    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "a", record)
    handler, level = Handler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        notifier.stop()
        eventually(lambda: raised)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert (raised[0] is not None) == explicitly
    assert not notifier.is_running()
    notifier.start()
    assert notifier.get_channels() == ({"a"} if explicitly else {"a", "inner"})
