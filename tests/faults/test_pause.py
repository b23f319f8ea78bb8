"""Pauses of the reader, over TCP: how long they may last, and connections that end in one."""

import logging
import threading
from datetime import datetime

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier import InlineDispatcher
from pgnotifier._listener import pause
from pgnotifier.testing import PostgresServer

from .conftest import Sessions
from .proxy import Proxy
from .waiting import eventually

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.xdist_group("pause")]  # one server

TIMEOUT = 1.0
"""Seconds after which the server gives up a silent client, unless a session sets its own."""


class Server(PostgresServer):
    """A server that is reached over TCP."""

    def __init__(self):
        super().__init__(tcp=True, settings={"tcp_user_timeout": int(1000 * TIMEOUT)})


@pytest.fixture(scope="module")
def server():
    """Yield a server that is shared by the tests of this file that don't stop it."""
    with Server() as server:
        if server.is_external:
            pytest.skip("needs a server of its own: unset PGNOTIFIER_TEST_DSN")
        yield server


@pytest.fixture
def dsn(server):
    """Yield the conninfo string of a new database."""
    with server.database() as dsn:
        yield dsn


class Stuck:
    """A callback that hangs until it is released, and the notifications that are sent to it."""

    def __init__(self, dsn):
        self.sessions = Sessions(dsn)
        self.got = []
        self.gaps = []
        self.states = []
        self.sent = []
        self.settings = {
            "dispatcher": InlineDispatcher(),
            "buffer_size": 100,
            "heartbeat": 0.3,
            "heartbeat_timeout": 60,  # answers may be late on a busy machine
            "on_gap": self.gaps.append,
            "on_state": lambda change: self.states.append(change.state),
        }
        self._released = threading.Event()

    def __call__(self, _id, _channel, payload, _pid):
        assert self._released.wait(120)
        self.got.append(payload["n"])

    def release(self):
        self._released.set()

    def send(self, count=1000):
        """Send notifications in one transaction; a thousand take 7 MB."""
        first, before = len(self.sent), datetime.now().astimezone()
        self.sessions.execute(
            "SELECT pg_notify('orders', json_build_object('n', n, 'x', repeat('x', 7000))::text)"
            " FROM generate_series(%s::int, %s) AS n",
            first,
            first + count - 1,
        )
        self.sent += [(before, datetime.now().astimezone())] * count

    def fill(self):
        """Send until the listener's session blocks in writing to it; return the session's pid."""
        while True:
            self.send()
            found = self.sessions.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'pgnotifier' AND wait_event = 'ClientWrite'"
            )
            if found:
                return found[0][0]
            assert len(self.sent) < 100_000

    def check(self):
        """Check that what wasn't delivered lies in a gap, and that nothing was delivered twice."""
        assert self.got == sorted(set(self.got))
        for number in set(range(len(self.sent))) - set(self.got):
            before, after = self.sent[number]
            assert any(gap.since <= after and before <= gap.until for gap in self.gaps), number


@pytest.fixture
def stuck(dsn):
    """Yield a callback that hangs."""
    one = Stuck(dsn)
    yield one
    one.release()


@pytest.mark.parametrize("standby", [None, "shop"])
def test_longer_than_the_timeout(dsn, stuck, make_notifier, standby, monkeypatch, caplog):
    """However long a pause lasts, the server keeps the session, and nothing is lost.

    Meanwhile warnings say how long it has lasted, and that it holds back vacuum.
    """
    caplog.set_level(logging.INFO, "pgnotifier")
    monkeypatch.setattr(pause, "WARN", TIMEOUT)
    notifier = make_notifier(dsn, standby=standby, **stuck.settings)
    notifier.subscribe("book", "orders", stuck)
    other = make_notifier(dsn, standby=standby, **stuck.settings) if standby else None
    if other is not None:
        other.subscribe("book", "orders", stuck)
    stuck.fill()
    eventually(lambda: caplog.text.count("holds back vacuum") >= 4, 60)
    stuck.release()
    eventually(lambda: len(stuck.got) == len(stuck.sent), 60)
    assert stuck.got == list(range(len(stuck.sent)))
    assert stuck.gaps == []
    assert notifier.status().reconnects == 0
    eventually(lambda: "reading again, after a pause of" in caplog.text)
    assert "% full), and the waiting session" in caplog.text
    levels = {record.levelname for record in caplog.records if "vacuum" in record.message}
    assert levels == {"WARNING"}
    assert "buffer of InlineDispatcher is full" in caplog.text


def test_terminated(dsn, stuck, make_notifier):
    """If its session is ended during a pause, the listener notices at once, and reconnects."""
    notifier = make_notifier(dsn, **stuck.settings)
    notifier.subscribe("book", "orders", stuck)
    pid = stuck.fill()
    eventually(lambda: notifier.status().dispatchers[0].full)
    stuck.sessions.execute("SELECT pg_terminate_backend(%s, 5000)", pid)
    eventually(lambda: stuck.states == ["starting", "listening", "disconnected", "listening"])
    stuck.send(50)
    stuck.release()
    eventually(lambda: stuck.got and stuck.got[-1] == len(stuck.sent) - 1, 60)
    assert len(stuck.gaps) == 1
    stuck.check()


def test_behind_a_proxy(server, stuck, dsn, make_notifier):
    """If the network doesn't signal the session's end, a second connection discovers it."""
    at_socket = {
        **conninfo_to_dict(server._socket_dsn()),
        "dbname": conninfo_to_dict(dsn)["dbname"],
    }
    with Proxy(at_socket) as proxy:
        notifier = make_notifier(proxy.dsn, **stuck.settings)
        notifier.subscribe("book", "orders", stuck)
        pid = stuck.fill()
        eventually(lambda: notifier.status().dispatchers[0].full)
        stuck.sessions.execute("SELECT pg_terminate_backend(%s, 5000)", pid)
        eventually(lambda: stuck.states[:3] == ["starting", "listening", "disconnected"])
        stuck.release()
        eventually(lambda: stuck.states[-1] == "listening")
        stuck.send(50)
        eventually(lambda: stuck.got and stuck.got[-1] == len(stuck.sent) - 1, 60)
        stuck.check()


def test_killed(make_notifier):
    """If the server crashes during a pause, the listener is disconnected, and later reconnects."""
    with Server() as server:
        if server.is_external:
            pytest.skip("needs a server of its own: unset PGNOTIFIER_TEST_DSN")
        stuck = Stuck(server.dsn)
        try:
            notifier = make_notifier(server.dsn, **stuck.settings)
            notifier.subscribe("book", "orders", stuck)
            stuck.fill()
            eventually(lambda: notifier.status().dispatchers[0].full)
            server.kill()
            eventually(lambda: notifier.status().state == "disconnected")
            server.start()
            eventually(lambda: notifier.status().state == "listening", 60)
            stuck.send(50)
            stuck.release()
            eventually(lambda: stuck.got and stuck.got[-1] == len(stuck.sent) - 1, 60)
            stuck.check()
        finally:
            stuck.release()


def test_asking_another_server(stuck, dsn, make_notifier, pgnotifier_dsn):
    """A second connection that reaches another server proves nothing about the first one."""
    to = [dsn]
    notifier = make_notifier(lambda: to[0], **stuck.settings)
    notifier.subscribe("book", "orders", stuck)
    to[0] = make_conninfo(pgnotifier_dsn, application_name="looking")
    stuck.fill()
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as other:

        def looks():
            (number,) = other.execute(
                "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
            return number

        begun = eventually(looks)
        eventually(lambda: looks() >= begun + 3)
    assert notifier.status().state == "listening"
    to[0] = dsn
    stuck.release()
    eventually(lambda: len(stuck.got) == len(stuck.sent), 60)
    assert stuck.gaps == []


def test_stopped(dsn, stuck, make_notifier):
    """A pause holds up neither `stop()` nor `add_channel()`."""
    notifier = make_notifier(dsn, **stuck.settings)
    notifier.subscribe("book", "orders", stuck)
    eventually(lambda: notifier.status().state == "listening")
    stuck.send(500)  # more than a batch and the buffer hold
    eventually(lambda: notifier.status().dispatchers[0].full)
    notifier.add_channel("more")  # in a pause, but nothing blocks the answer
    assert notifier.stop(0.5) > 0
    stuck.release()
