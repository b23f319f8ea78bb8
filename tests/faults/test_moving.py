"""Moving to a new connection, and what may happen in the meantime."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgnotifier import ConnectionFailedError, ListenRefusedError
from pgnotifier._connection.session import Session
from pgnotifier.testing import PostgresServer

from .conftest import Sessions
from .waiting import eventually

pytestmark = pytest.mark.usefixtures("quick")


def test_with_a_backlog(pgnotifier_dsn, sessions, make_notifier):
    """A listener with a full buffer moves once there is room, and loses nothing that waits."""
    going_on, got = threading.Event(), []

    def slow(*arguments):
        assert going_on.wait(30)
        got.append(int(arguments[2]))

    # While it pauses, a session of its own would look for questions.
    notifier = make_notifier(pgnotifier_dsn, buffer_size=50, answers=False)
    notifier.subscribe(1, "orders", slow)
    (before,) = sessions.pids()
    for first in range(0, 3000, 100):
        sessions.execute(
            "SELECT count(pg_notify('orders', rpad((n + %s)::text, 7000)))"
            " FROM generate_series(0, 99) n",
            first,
        )
    eventually(lambda: notifier.status().dispatchers[0].full)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(notifier.restart)
        eventually(lambda: len(sessions.pids()) == 2)
        assert notifier.status().dispatchers[0].waiting < 3000
        going_on.set()
        call.result(30)
    sessions.notify("orders", 3000)
    eventually(lambda: got and got[-1] == 3000)
    assert got == list(range(3001))
    assert before not in sessions.pids()
    assert notifier.status().gaps == 0


def test_to_another_server(pgnotifier_dsn, make_notifier, ledger):
    """A move to another server makes a gap: notifications of two servers have no common order."""
    to = [pgnotifier_dsn]
    notifier = make_notifier(lambda: to[0], on_gap=ledger.gaps.append, heartbeat_timeout=0.5)
    notifier.subscribe(1, "orders", ledger.callback)
    with PostgresServer() as server:
        to[0] = server.dsn
        notifier.restart()
        Sessions(server.dsn).notify("orders", 1)
        eventually(lambda: ledger.delivered == [(1, "orders")])
        (gap,) = ledger.gaps
        assert "another server" in gap.reason
        assert gap.channels == {"orders"}
        notifier.stop()


def test_no_new_connection(pgnotifier_dsn, sessions, make_notifier, ledger):
    """If no new connection can be made, `restart()` says why, and the old one is kept."""
    to = [pgnotifier_dsn]
    notifier = make_notifier(lambda: to[0])
    notifier.subscribe(1, "orders", ledger.callback)
    pids = sessions.pids()
    to[0] = "host=/nowhere"
    with pytest.raises(ConnectionFailedError, match="/nowhere"):
        notifier.restart()
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert sessions.pids() == pids
    status = notifier.status()
    assert (status.state, status.gaps, status.reconnects) == ("listening", 0, 0)


def test_the_new_one_is_refused(pgnotifier_dsn, sessions, make_notifier, ledger, monkeypatch):
    """If LISTEN fails on the new connection, `restart()` says why, and the old one is kept."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    pids = sessions.pids()
    monkeypatch.setattr(
        "pgnotifier._listener.handover.listen_query", lambda *_, **__: b"SELECT 1/0"
    )
    with pytest.raises(ListenRefusedError, match="division by zero"):
        notifier.restart()
    monkeypatch.undo()
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert sessions.pids() == pids


@pytest.mark.parametrize("answers", range(1, 4))
def test_lost_in_the_middle(pgnotifier_dsn, sessions, make_notifier, ledger, monkeypatch, answers):
    """If all sessions end at any moment of a move, the listener reconnects and reports one gap."""
    notifier = make_notifier(pgnotifier_dsn, on_gap=ledger.gaps.append)
    notifier.subscribe(1, "orders", ledger.callback)
    answered, left = Session.answered, [answers]

    def end_all(session):
        done = answered(session)
        left[0] -= done
        if done and not left[0]:
            sessions.terminate()
        return done

    monkeypatch.setattr(Session, "answered", end_all)
    with contextlib.suppress(ConnectionFailedError):  # the new one is lost first
        notifier.restart()
    eventually(lambda: notifier.status().state == "listening" and left[0] <= 0)
    eventually(lambda: notifier.status().gaps == 1)
    sessions.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    eventually(lambda: len(sessions.pids()) == 1)
