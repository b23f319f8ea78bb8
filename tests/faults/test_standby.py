"""Leaders that die, freeze or are cut off: a standby takes over, and nothing is delivered twice."""

import json
import os
import signal
import time
from datetime import datetime

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier._listener.leader_lock import Standby
from pgnotifier._listener.reader_connection import ReaderConnection

from .proxy import Proxy
from .waiting import eventually

LISTENER = """
import json, os, sys
from pgnotifier import Notifier

def say(*what):
    os.write(1, f"{json.dumps(what)}\\n".encode())  # whole lines, from any thread

notifier = Notifier(
    sys.argv[1],
    standby="shop",
    heartbeat=float(sys.argv[2]),
    heartbeat_timeout=1.0,
    on_state=lambda change: say("state", change.state),
    on_gap=lambda gap: say("gap", gap.to_dict()),
)
notifier.subscribe("a", "orders", lambda id, channel, payload, pid: say("payload", payload))
"""
LEADER = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def said(script, kind):
    """Return what a listener has printed of one kind, in order."""
    found = [json.loads(line) for line in script.out.splitlines() if line.endswith("]")]
    return [value for what, value in found if what == kind]


def state(script):
    """Return the state that a listener has printed last."""
    return (said(script, "state") or [None])[-1]


class Orders:
    """Sends numbered notifications, each with the times before and after its commit."""

    def __init__(self, sessions):
        self._sessions = sessions
        self.sent = []

    def send(self, count=20):
        for _ in range(count):
            before = datetime.now().astimezone()
            self._sessions.notify("orders", len(self.sent))
            self.sent.append((before, datetime.now().astimezone()))

    def check(self, *scripts):
        """Check that none came twice and that missing ones lie in a gap; return how many came."""
        payloads = [number for script in scripts for number in said(script, "payload")]
        assert len(payloads) == len(set(payloads))
        gaps = [
            (datetime.fromisoformat(gap["since"]), datetime.fromisoformat(gap["until"]))
            for script in scripts
            for gap in said(script, "gap")
        ]
        for number in set(range(len(self.sent))) - set(payloads):
            before, after = self.sent[number]
            assert any(since <= after and before <= until for since, until in gaps), number
        return len(payloads)


@pytest.fixture
def orders(sessions):
    """Return what sends and checks the test's notifications."""
    return Orders(sessions)


@pytest.fixture
def two(run_script, pgnotifier_dsn):
    """Return two listeners with one standby name: the leader and the standby."""
    first = run_script(LISTENER, pgnotifier_dsn, "15")
    eventually(lambda: state(first) == "listening", 20)
    second = run_script(LISTENER, pgnotifier_dsn, "15")
    eventually(lambda: state(second) == "standby", 20)
    return first, second


@pytest.mark.parametrize("rounds", [3, pytest.param(6, marks=pytest.mark.gate)])
def test_killed(two, run_script, pgnotifier_dsn, orders, rounds):
    """When the leader is killed, the standby takes over within two seconds, again and again."""
    leader, standby = two
    scripts, times = [*two], []
    for _ in range(rounds):
        orders.send()
        os.kill(leader.pid, signal.SIGKILL)
        killed = time.monotonic()
        eventually(lambda one=standby: state(one) == "listening", 20)
        times.append(time.monotonic() - killed)
        orders.send()
        last = len(orders.sent) - 1
        eventually(lambda one=standby, n=last: n in said(one, "payload"))
        leader, standby = standby, run_script(LISTENER, pgnotifier_dsn, "15")
        scripts.append(standby)
        eventually(lambda one=standby: state(one) == "standby", 20)
    assert orders.check(*scripts) >= 20 * rounds
    assert min(times) < 2


@pytest.mark.parametrize("rounds", [2, pytest.param(6, marks=pytest.mark.gate)])
def test_frozen(two, sessions, orders, rounds):
    """A frozen leader loses the lead with its session; when it wakes, it delivers nothing twice."""
    leader, standby = two
    for _ in range(rounds):
        orders.send()
        os.kill(leader.pid, signal.SIGSTOP)
        try:
            orders.send()
            ((pid,),) = sessions.execute(LEADER)
            sessions.execute("SELECT pg_terminate_backend(%s, 5000)", pid)
            eventually(lambda one=standby: state(one) == "listening", 20)
            orders.send()
        finally:
            os.kill(leader.pid, signal.SIGCONT)
        eventually(lambda one=leader: state(one) == "standby", 20)
        orders.send()
        last = len(orders.sent) - 1
        eventually(lambda one=standby, n=last: n in said(one, "payload"))
        leader, standby = standby, leader
    orders.check(*two)


def test_cut_off(run_script, pgnotifier_dsn, sessions, orders):
    """A leader that the network cuts off stands by after PostgreSQL has ended its session."""
    with Proxy(conninfo_to_dict(pgnotifier_dsn)) as proxy:
        leader = run_script(LISTENER, proxy.dsn, "0.5")
        eventually(lambda: state(leader) == "listening", 20)
        standby = run_script(LISTENER, pgnotifier_dsn, "15")
        eventually(lambda: state(standby) == "standby", 20)
        orders.send()
        proxy.frozen = True
        eventually(lambda: state(leader) == "disconnected", 20)
        orders.send()
        ((pid,),) = sessions.execute(LEADER)
        sessions.execute("SELECT pg_terminate_backend(%s, 5000)", pid)  # as keepalives would
        eventually(lambda: state(standby) == "listening", 20)
        orders.send()
        proxy.frozen = False
        eventually(lambda: state(leader) == "standby", 30)
        orders.send()
        last = len(orders.sent) - 1
        eventually(lambda: last in said(standby, "payload"))
        orders.check(leader, standby)


def test_restart_keeps_the_lead(pgnotifier_dsn, make_notifier, ledger):
    """`restart()` hands the lock to the new connection, so that no standby takes over."""
    gaps = []
    leader = make_notifier(pgnotifier_dsn, standby="shop", on_gap=gaps.append)
    leader.subscribe(1, "orders", ledger.callback)
    standby = make_notifier(pgnotifier_dsn, standby="shop", on_gap=gaps.append)
    standby.subscribe(1, "orders", ledger.callback)
    for number in range(5):
        leader.restart()
        leader.notify("orders", number)
        eventually(lambda n=number: ledger.delivered[-1:] == [(n, "orders")])
    assert leader.status().state == "listening"
    assert standby.status().state == "standby"
    assert gaps == []
    assert len(ledger.delivered) == 5


COMPANION = LEADER.replace("ExclusiveLock", "ShareLock") + " AND objsubid = 1"


def test_vanished_under_load(pgnotifier_dsn, sessions, make_notifier, monkeypatch, ledger):
    """A standby ends a leader's session once its companion's has ended and isn't replaced."""
    monkeypatch.setattr("pgnotifier._listener.leader_lock.UNKNOWN_AGE", 2.0)
    settings = {"standby": "shop", "heartbeat": 0.5, "heartbeat_timeout": 0.5}
    with Proxy(conninfo_to_dict(pgnotifier_dsn)) as proxy:
        leader = make_notifier(make_conninfo(proxy.dsn, connect_timeout=2), **settings)
        leader.subscribe(1, "orders", ledger.callback)
        ((companion,),) = eventually(lambda: sessions.execute(COMPANION))
        standby = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append, **settings)
        standby.subscribe(1, "orders", ledger.callback)
        sessions.execute("SELECT pg_terminate_backend(%s, 5000)", companion)
        ((another,),) = eventually(lambda: sessions.execute(COMPANION))  # the leader is still there
        assert another != companion
        sessions.notify("orders", 1)
        eventually(lambda: ledger.delivered == [(1, "orders")])
        beats = leader.status().latency.count
        eventually(lambda: leader.status().latency.count > beats + 6)  # longer than a takeover
        assert standby.status().state == "standby"
        assert leader.status().reconnects == 0
        proxy.frozen = True
        sessions.execute("SELECT pg_terminate_backend(%s, 5000)", another)  # as keepalives would
        sessions.notify("orders", 2)
        eventually(lambda: standby.status().state == "listening", 30)
        sessions.notify("orders", 3)
        eventually(lambda: ledger.delivered == [(1, "orders"), (3, "orders")])
        assert len(ledger.gaps) == 1
        ((pid,),) = sessions.execute(LEADER)
        proxy.frozen = False
        eventually(lambda: leader.status().state == "standby", 30)
        assert sessions.execute(LEADER) == [(pid,)]
        eventually(lambda: sessions.execute(COMPANION))


def test_the_companion_goes_with_the_lead(pgnotifier_dsn, sessions, make_notifier):
    """A leader has one companion, even after restarts, and none once it has stopped."""
    leader = make_notifier(pgnotifier_dsn, standby="shop")
    leader.add_channel("orders")
    eventually(lambda: sessions.execute(COMPANION))
    leader.restart()
    leader.restart()
    assert len(sessions.execute(COMPANION)) == 1
    leader.stop()
    eventually(lambda: not sessions.execute(COMPANION) and not sessions.pids())
    alone = make_notifier(pgnotifier_dsn)
    alone.add_channel("orders")
    assert len(sessions.pids()) == 1


def test_a_leader_that_stops(pgnotifier_dsn, sessions, make_notifier, monkeypatch, ledger):
    """The gap reaches back to the leader's last query; it sends one as often as standbys poll.

    It sends heartbeats, too, as an answered query doesn't prove that notifications arrive.
    """
    beats, round_trip = [], ReaderConnection.round_trip

    def count_beats(connection, query, timeout, token=None):
        if token is not None:
            beats.append(token)
        round_trip(connection, query, timeout, token)

    monkeypatch.setattr(ReaderConnection, "round_trip", count_beats)
    monkeypatch.setattr("pgnotifier._listener.leadership.POLL", 0.1)
    leader = make_notifier(pgnotifier_dsn, standby="shop", heartbeat=2.0)
    leader.add_channel("orders")
    standby = make_notifier(pgnotifier_dsn, standby="shop", on_gap=ledger.gaps.append)
    standby.add_channel("orders")
    eventually(lambda: len(beats) >= 2)  # at the start, and after 2 s
    assert standby.status().state == "standby"
    leader.stop()
    eventually(lambda: ledger.gaps)
    (gap,) = ledger.gaps
    assert (gap.until - gap.since).total_seconds() < 1.8  # a heartbeat was 2 s ago


def test_late_polls(pgnotifier_dsn, make_notifier, monkeypatch, ledger):
    """If a standby's polls take long, the gap begins before anything that may have been lost."""
    query, looked, ask = Standby("shop").query, [], ReaderConnection.ask

    def ask_late(connection, text):
        row = ask(connection, text)
        if text == query:
            looked.append(row)
            time.sleep(0.7)  # the answer is there, and isn't read yet
        return row

    monkeypatch.setattr(ReaderConnection, "ask", ask_late)
    monkeypatch.setattr("pgnotifier._listener.leadership.POLL", 0.05)
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as leader:
        leader.execute(query)
        standby = make_notifier(pgnotifier_dsn, standby="shop", on_gap=ledger.gaps.append)
        standby.add_channel("orders")
        sent = []
        for number in range(3):
            known = len(looked)
            eventually(lambda known=known: len(looked) > known)
            sent.append(datetime.now().astimezone())
            leader.execute("SELECT 1")
            assert standby.status().state == "standby", number
        known = len(looked)
        eventually(lambda: len(looked) > known)
    eventually(lambda: ledger.gaps)
    assert ledger.gaps[0].since < sent[1]  # when the last query but one was made
