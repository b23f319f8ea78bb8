"""Half-open connections, which look alive but aren't."""

import logging
import os
import signal
import time
from datetime import timedelta

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier._listener import round_trips

from .load import Sender
from .proxy import Proxy
from .waiting import eventually

CHANNELS = ["orders", "payments"]
SHORT = {"heartbeat": 0.3, "heartbeat_timeout": 0.4}


@pytest.fixture(autouse=True)
def short_times(quick, monkeypatch):
    """With `SHORT`, have a dead connection noticed in half a second rather than in 20."""
    monkeypatch.setattr(round_trips, "PROOF", 0.2)


@pytest.fixture
def proxy(pgnotifier_dsn):
    """Yield a proxy in front of this test's database."""
    with Proxy(conninfo_to_dict(pgnotifier_dsn)) as proxy:
        yield proxy


def listening_again(notifier):
    eventually(lambda: (status := notifier.status()).reconnects and status.state == "listening")


def test_idle_session_is_frozen(pgnotifier_dsn, sessions, make_notifier, ledger):
    """A session that no longer answers is given up after the deadline and replaced."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append, **SHORT)
    notifier.subscribe(1, "orders", ledger.callback)
    (pid,) = sessions.pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        listening_again(notifier)
        assert pid not in set(sessions.pids()) - {pid}
        sessions.notify("orders", 1)
        eventually(lambda: ledger.delivered == [(1, "orders")])
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: len(ledger.gaps) == 1)
    assert "no answer" in ledger.gaps[0].reason
    eventually(lambda: pid not in sessions.pids())


def test_network_swallows_under_load(pgnotifier_dsn, proxy, make_notifier, ledger, caplog):
    """If the network swallows everything under load, there is one gap, and no loss outside it."""
    caplog.set_level(logging.WARNING, "pgnotifier")
    notifier = make_notifier(
        make_conninfo(proxy.dsn, connect_timeout=2), on_gap=ledger.gaps.append, **SHORT
    )
    for channel in CHANNELS:
        notifier.subscribe("ledger", channel, ledger.callback)
    with Sender(pgnotifier_dsn, CHANNELS) as sender:
        sender.wait_for(200)
        proxy.frozen = True
        eventually(lambda: notifier.status().state == "disconnected")
        eventually(lambda: proxy.accepted >= 2)  # an attempt to reconnect is swallowed, too
        proxy.frozen = False
        listening_again(notifier)
        sender.wait_for(100)
        ledger.settle(sender, notifier)
    assert ledger.check(sender.sent, CHANNELS) > 0
    (gap,) = ledger.gaps
    assert gap.until - gap.since < timedelta(seconds=10)
    lost = [text for text in caplog.messages if text.startswith("disconnected")]
    assert len(lost) == 1
    assert "no answer" in lost[0]


def test_subscribe_on_a_dead_connection(proxy, sessions, make_notifier, ledger):
    """`subscribe()` on a connection that has silently died waits for the next one."""
    notifier = make_notifier(make_conninfo(proxy.dsn, connect_timeout=2), **SHORT)
    notifier.add_channel("orders")
    proxy.frozen = True
    begun = time.monotonic()
    while time.monotonic() - begun < 0.1:
        pass  # `subscribe()` is to find a connection that is merely silent
    proxy.frozen = False  # for new connections; the old one's pumps have lost what was sent
    notifier.subscribe(1, "payments", ledger.callback)
    sessions.notify("payments", 1)
    eventually(lambda: ledger.delivered == [(1, "payments")])


def test_a_slow_answer_is_waited_for(pgnotifier_dsn, sessions, make_notifier, ledger):
    """A session that is frozen for less than the deadline is kept, and nothing is lost."""
    notifier = make_notifier(pgnotifier_dsn, heartbeat=0.3, heartbeat_timeout=30.0)
    notifier.subscribe(1, "orders", ledger.callback)
    (pid,) = sessions.pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        sessions.notify("orders", 1)
        time.sleep(1)  # several heartbeats
        assert ledger.delivered == []
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert notifier.status().reconnects == 0
    assert sessions.pids() == [pid]


def test_idle_connection_is_proven(pgnotifier_dsn, sessions, make_notifier, ledger):
    """On an idle connection heartbeats continue, so that a gap never reaches far back."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append, **SHORT)
    notifier.add_channel("orders")
    time.sleep(1.5)
    sessions.terminate()
    eventually(lambda: ledger.gaps)
    assert ledger.gaps[0].until - ledger.gaps[0].since < timedelta(seconds=1)


@pytest.mark.gate
@pytest.mark.alone
def test_recovers_soon(pgnotifier_dsn, proxy, make_notifier, ledger):
    """When the network works again after seconds of silence, the listener is back within 2 s."""
    dsn = make_conninfo(proxy.dsn, connect_timeout=6)  # much later than within 2 s
    notifier = make_notifier(dsn, **SHORT, on_gap=ledger.gaps.append)
    notifier.subscribe(1, "orders", ledger.callback)
    for number in range(1, 4):  # on a busy machine, any one may take longer
        proxy.frozen = True
        eventually(lambda: notifier.status().state == "disconnected")
        time.sleep(2.5)  # attempts to reconnect hang meanwhile
        proxy.frozen = False
        begun = time.monotonic()
        eventually(lambda n=number: notifier.status().reconnects == n)
        took = time.monotonic() - begun
        if took < 2:
            break
    assert took < 2
    notifier.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])


@pytest.mark.long
def test_at_defaults(pgnotifier_dsn, proxy, make_notifier):
    """By default, a half-open connection is noticed within 20 seconds."""
    notifier = make_notifier(proxy.dsn)
    notifier.add_channel("orders")
    proxy.frozen = True
    begun = time.monotonic()
    eventually(lambda: notifier.status().state == "disconnected", 40)
    assert 5 < time.monotonic() - begun < 22
    proxy.frozen = False
    eventually(lambda: notifier.status().state == "listening")
