"""Endurance: many reconnects leave nothing behind, and the system clock may be set."""

import gc
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from pgnotifier._runtime import clock as moment
from pgnotifier._runtime.backoff import Backoff

from .waiting import eventually

MIB = 1024 * 1024


def resident():
    """Return the bytes of memory that this process has in use."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def usage():
    """Return how many threads and descriptors this process has."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    "many",
    [
        100,
        pytest.param(10_000, marks=[pytest.mark.gate, pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_reconnects(pgnotifier_dsn, make_notifier, ledger, monkeypatch, many):
    """Many reconnects in a loop take no more memory, threads or descriptors than a few."""
    monkeypatch.setattr(Backoff, "FIRST", 0.0)
    notifier = make_notifier(pgnotifier_dsn, on_gap=lambda gap: None)
    notifier.subscribe("book", "orders", ledger.callback)
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as admin:

        def reconnect(count):
            for _ in range(count):
                before = notifier.status().reconnects
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'pgnotifier' AND datname = current_database()"
                )
                eventually(
                    lambda before=before: (
                        (status := notifier.status()).reconnects > before
                        and status.state == "listening"
                    )
                )
            admin.execute("SELECT pg_notify('orders', %s)", (str(count),))
            eventually(lambda: ledger.delivered and ledger.delivered[-1][0] == count)
            eventually(lambda: usage() <= quiet)

        quiet = usage()
        reconnect(100)
        memory = resident()
        reconnect(many)
        assert resident() - memory < (4 if many > 1000 else 2) * MIB
        assert notifier.status().gaps == notifier.status().reconnects


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_clock_that_is_set(pgnotifier_dsn, sessions, make_notifier, ledger, monkeypatch, jump):
    """If the clock jumps while the connection is lost, the gap still covers all of the outage."""
    shown = timedelta()

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + shown

    monkeypatch.setattr(moment, "datetime", Clock)
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append, heartbeat=0.2)
    notifier.subscribe("book", "orders", ledger.callback)
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered)
    lost = datetime.now(UTC)
    shown = jump
    sessions.terminate()
    eventually(lambda: ledger.gaps)
    (gap,) = ledger.gaps
    back = datetime.now(UTC)
    assert gap.since < min(lost, lost + jump)
    assert max(lost, lost + jump) < gap.until < max(back, back + jump)
    count = notifier.status().latency.count
    eventually(lambda: notifier.status().latency.count > count + 3)  # heartbeats go on as before
    sessions.notify("orders", 2)
    eventually(lambda: [payload for payload, _ in ledger.delivered] == [1, 2])
