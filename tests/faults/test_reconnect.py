"""Connections lost under load: everything is delivered once and in order, or lies in a gap."""

import logging
import os
import random
import signal
import time
from datetime import timedelta

import pytest

from pgnotifier._listener import round_trips

from .conftest import Sessions
from .load import Sender
from .waiting import eventually

CHANNELS = ["orders", "Payments", 'My "odd" channel; drop table x', "ümläut"]


@pytest.fixture(autouse=True)
def short_pauses(quick):
    """Use short pauses between attempts."""


def subscribe_all(notifier, ledger):
    notifier.add_channels(CHANNELS)
    for channel in CHANNELS:
        notifier.subscribe("ledger", channel, ledger.callback)


def listening(notifier, reconnects):
    eventually(
        lambda: (
            (status := notifier.status()).state == "listening" and status.reconnects >= reconnects
        )
    )


def test_terminated_thirty_times(pgnotifier_dsn, sessions, ledger, make_notifier):
    """Thirty sessions ended under load lose only what lies in the thirty reported gaps."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append)
    subscribe_all(notifier, ledger)
    with Sender(pgnotifier_dsn, CHANNELS) as sender:
        sender.wait_for(100)
        for count in range(1, 31):
            assert sessions.terminate() == 1
            listening(notifier, count)
            time.sleep(random.uniform(0, 0.05))  # so that any moment is hit
        sender.wait_for(100)
        ledger.settle(sender, notifier)
    ledger.check(sender.sent, CHANNELS)
    assert len(ledger.delivered) >= 100
    assert len(ledger.gaps) == notifier.status().reconnects == 30


def test_terminated_while_reconnecting(pgnotifier_dsn, sessions, ledger, make_notifier):
    """If new sessions are ended at once, the listener reconnects until one is left alone."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append)
    subscribe_all(notifier, ledger)
    with Sender(pgnotifier_dsn, CHANNELS) as sender:
        sender.wait_for(100)
        ended, until = 0, time.monotonic() + 60
        while ended < 10 and time.monotonic() < until:
            ended += sessions.terminate()
        sender.wait_for(100)
        ledger.settle(sender, notifier)
    assert ended >= 10
    ledger.check(sender.sent, CHANNELS)


@pytest.mark.parametrize("pauses", [(5.0,), (0.0, 0.3, 0.0, 0.1)])
def test_immediate_shutdown(pgnotifier_private_postgres, ledger, make_notifier, pauses):
    """Once a crashed server is back, even 5 s later, the listener receives on all channels."""
    server = pgnotifier_private_postgres
    notifier = make_notifier(server.dsn, on_gap=ledger.gaps.append)
    subscribe_all(notifier, ledger)
    with Sender(server.dsn, CHANNELS) as sender:
        for count, pause in enumerate(pauses, 1):
            sender.wait_for(100)
            server.stop("immediate")
            eventually(lambda: notifier.status().state == "disconnected")
            time.sleep(pause)
            server.start()
            listening(notifier, count)
        sender.wait_for(100)
        ledger.settle(sender, notifier)
    ledger.check(sender.sent, CHANNELS)
    assert len(ledger.gaps) == len(pauses)
    assert ledger.gaps[0].until - ledger.gaps[0].since >= timedelta(seconds=pauses[0])


def test_fast_shutdown_and_kill(pgnotifier_private_postgres, ledger, make_notifier):
    """A fast shutdown, a killed session and a killed server lose only what lies in a gap."""
    server = pgnotifier_private_postgres
    sessions = Sessions(server.dsn)
    notifier = make_notifier(server.dsn, on_gap=ledger.gaps.append)
    subscribe_all(notifier, ledger)
    with Sender(server.dsn, CHANNELS) as sender:
        sender.wait_for(100)
        server.stop("fast")
        server.start()
        listening(notifier, 1)
        sender.wait_for(100)
        (pid,) = sessions.pids()
        os.kill(pid, signal.SIGKILL)
        listening(notifier, 2)
        sender.wait_for(100)
        server.kill()
        server.start()
        listening(notifier, 3)
        sender.wait_for(100)
        ledger.settle(sender, notifier)
    ledger.check(sender.sent, CHANNELS)
    assert len(ledger.gaps) >= 3


@pytest.mark.parametrize("many", [30, pytest.param(100, marks=pytest.mark.gate)])
def test_restart_under_load(pgnotifier_dsn, ledger, make_notifier, many):
    """`restart()` under load replaces the connection: nothing is lost, duplicated or reordered."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append)
    subscribe_all(notifier, ledger)
    with Sender(pgnotifier_dsn, CHANNELS) as sender:
        for _ in range(many):
            sender.wait_for(20)
            notifier.restart()
            assert notifier.status().state == "listening"
        sender.wait_for(20)
        ledger.settle(sender, notifier)
    assert ledger.check(sender.sent, CHANNELS) == 0
    assert ledger.gaps == []
    assert notifier.status().reconnects == many


def test_gap_reaches_back_no_further_than_a_proof(
    pgnotifier_dsn, sessions, ledger, make_notifier, monkeypatch
):
    """Under load, a gap begins at the last answered round trip, which was a short time ago."""
    monkeypatch.setattr(round_trips, "PROOF", 0.2)
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append)
    subscribe_all(notifier, ledger)
    with Sender(pgnotifier_dsn, CHANNELS) as sender:
        sender.wait_for(1000)
        sessions.terminate()
        listening(notifier, 1)
        ledger.settle(sender, notifier)
    (gap,) = ledger.gaps
    assert gap.until - gap.since < timedelta(seconds=0.9)
    ledger.check(sender.sent, CHANNELS)


def test_one_warning_an_incident(pgnotifier_private_postgres, make_notifier, caplog):
    """An outage logs one warning, when it begins, however many attempts the reconnect takes."""
    caplog.set_level(logging.INFO, "pgnotifier")
    server = pgnotifier_private_postgres
    notifier = make_notifier(server.dsn)
    notifier.add_channel("orders")
    server.stop("immediate")
    eventually(lambda: sum("not back yet" in text for text in caplog.messages) >= 5)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    (warning,) = warnings
    assert warning.message.startswith("disconnected: lost the connection to PostgreSQL: ")
    caplog.clear()
    server.start()
    listening(notifier, 1)
    eventually(lambda: notifier.status().gaps == 1)
    assert not [r for r in caplog.records if r.levelno > logging.WARNING]
    (again,) = [text for text in caplog.messages if " again, after " in text]
    assert again.startswith("listening 1 channel ")
    eventually(lambda: any("missed" in text for text in caplog.messages))
    assert sum("missed" in text for text in caplog.messages) == 1
