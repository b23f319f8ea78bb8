"""Moving the position of a subscription that an entry holds up."""

import logging
import subprocess
import sys
from time import monotonic

import psycopg
import pytest

from pgnotifier._durable import progress
from pgnotifier._log import positions

PROMPT = 20.0
"""Seconds that are much less than a pause, and enough on a busy machine."""


@pytest.fixture(autouse=True)
def long_pauses(monkeypatch):
    """Have an entry that fails be tried again after ten minutes, as after its tenth attempt."""
    monkeypatch.setattr(progress, "retry_pause", lambda attempts: 600.0)


class Refusing:
    """A callback that refuses some payloads, and records its calls."""

    def __init__(self, *refused):
        self.refused = {*refused}
        self.calls = []

    def __call__(self, id, channel, payload, pid):
        self.calls.append(payload)
        if payload in self.refused:
            raise ValueError("no")


@pytest.fixture
def hold_up(notifier, log, eventually):
    """Return a function that publishes 1 to 3, of which 2 holds up a subscription."""

    def hold_up():
        callback = Refusing(2)
        notifier.subscribe("invoice", "paid", callback, durable=True, on_failure="stop")
        ids = log.publish("paid", 1, 2, 3)
        eventually(lambda: held_since(notifier) is not None)
        assert callback.calls == [1, 2]
        return callback, ids

    return hold_up


def held_since(notifier):
    """Return since when the subscription is held up."""
    return status_of(notifier).held_since


def status_of(notifier):
    """Return what `status()` says about the subscription."""
    (found,) = (one for one in notifier.status().durable if one.id == "invoice")
    return found


def replay(dsn, *arguments):
    """Move the position by the command, in a process of its own."""
    given = ["replay", "invoice", "--channel", "paid", "--dsn", dsn, *arguments]
    subprocess.run([sys.executable, "-m", "pgnotifier", *given], check=True, timeout=60)


@pytest.mark.parametrize("has_others", [False, True], ids=["alone", "beside others"])
def test_past_an_entry(notifier, log, record, eventually, hold_up, has_others):
    """`seek()` past the entry that holds up a subscription takes effect at once."""
    if has_others:  # which wait for the bell, for longer than a second
        notifier.subscribe("audit", "other", record, durable=True)
    callback, ids = hold_up()
    notifier.seek("invoice", "paid", ids[2])
    eventually(lambda: callback.calls == [1, 2, 3], PROMPT)
    eventually(lambda: held_since(notifier) is None)
    assert status_of(notifier).attempts == 0


def test_by_another_process(log, notifier, eventually, hold_up):
    """So does `pgnotifier replay` in another process."""
    callback, ids = hold_up()
    replay(log.dsn, "--from-id", str(ids[2]))
    eventually(lambda: callback.calls == [1, 2, 3], PROMPT)
    eventually(lambda: held_since(notifier) is None)


def test_to_the_entry_itself(log, notifier, eventually, hold_up, caplog):
    """The entry is tried again at once, and holds up the subscription again if it fails."""
    caplog.set_level(logging.ERROR, "pgnotifier.durable")
    callback, ids = hold_up()
    notifier.seek("invoice", "paid", ids[1])
    eventually(lambda: callback.calls == [1, 2, 2], PROMPT)
    eventually(lambda: held_since(notifier) is not None)
    assert status_of(notifier).attempts == 1
    eventually(lambda: [one.pgnotifier_event for one in caplog.records].count("held_up") == 2)
    callback.refused.clear()
    replay(log.dsn, "--oldest")
    eventually(lambda: callback.calls[-2:] == [2, 3], PROMPT)


def test_forgetting_it(log, notifier, eventually, hold_up):
    """A subscription that is forgotten meanwhile begins again, without the pause."""
    callback, _ = hold_up()
    with psycopg.connect(log.dsn, autocommit=True) as other:
        assert positions.forget(other, "invoice", "paid")
    eventually(lambda: held_since(notifier) is None, PROMPT)

    def is_delivered():
        log.publish("paid", 4)
        return 4 in callback.calls

    eventually(is_delivered, PROMPT)


def test_without_a_move(log, notifier, eventually, hold_up):
    """As long as nobody moves it, the entry isn't tried again before its time."""
    callback, _ = hold_up()
    looked = monotonic() + 2.5
    eventually(lambda: monotonic() > looked)
    assert callback.calls == [1, 2]
    assert held_since(notifier) is not None
