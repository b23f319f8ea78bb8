"""Overflow policies, with a broker that stays down and a callback that hangs."""

import logging
import secrets
import threading
import time

import pytest
from celery import Celery

from pgnotifier import Dispatcher, InlineDispatcher
from pgnotifier._delivery import buffer
from pgnotifier._listener import reader_connection, round_trips
from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.testing import PostgresServer, ValkeyServer

from .conftest import Sessions
from .waiting import eventually

SIZE = 200
SENT = 3000
SENT_AT_ONCE = 300
LONG = 1000
"""Bytes of a payload; all of them are six times what PostgreSQL's queue holds in these tests."""


class HangingCallback:
    """A callback that hangs until it is released."""

    def __init__(self):
        self.dispatcher = InlineDispatcher()
        self.options = {}
        self.got = []
        self._going_on = threading.Event()

    def __call__(self, _id, _channel, payload, _pid):
        assert self._going_on.wait(120)
        self.got.append(payload["n"])

    def recover(self):
        """Let the callback return."""
        self._going_on.set()

    def close(self):
        """Do nothing: there is nothing to close."""


class DeadBroker:
    """A broker that is down until `recover` starts it."""

    def __init__(self):
        self._server = ValkeyServer()
        self._server.start()
        self._queue = secrets.token_hex(4)
        app = Celery("shop", broker=self._server.url, set_as_current=False)
        app.conf.task_default_queue = self._queue
        self.dispatcher = CeleryDispatcher(app)
        self._server.stop()

    def __call__(self, _id, _channel, payload, _pid):
        raise AssertionError("runs in workers only")

    @property
    def got(self):
        """The numbers in the broker, in order."""
        import json
        from base64 import b64decode

        import redis

        with redis.Redis.from_url(self._server.url) as client:
            messages = client.lrange(self._queue, 0, -1)
        bodies = [json.loads(b64decode(json.loads(message)["body"])) for message in messages]
        return [arguments[2]["n"] for arguments, *_ in reversed(bodies)]

    def recover(self):
        """Start it again."""
        self._server.start()

    def close(self):
        """Stop it for good."""
        self._server.close()


@pytest.fixture(params=[HangingCallback, DeadBroker])
def stuck(request):
    """Yield a target that takes no deliveries until it recovers."""
    if request.param is DeadBroker and ValkeyServer().is_external:
        pytest.skip("needs a server of its own: unset PGNOTIFIER_TEST_REDIS_URL")
    one = request.param()
    yield one
    one.recover()
    one.close()


# One process runs all tests with one of the servers.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param("socket", marks=pytest.mark.xdist_group("overflow-socket")),
        pytest.param("tcp", marks=pytest.mark.xdist_group("overflow-tcp")),
    ],
)
def server(request):
    """Yield a server with the shortest possible queue, which soon gives up dead connections."""
    settings = {"max_notify_queue_pages": 64, "tcp_user_timeout": 1000}
    with PostgresServer(tcp=request.param == "tcp", settings=settings) as server:
        if server.is_external:
            pytest.skip("needs a server of its own: unset PGNOTIFIER_TEST_DSN")
        yield server


@pytest.fixture
def sessions(server):
    """Return the sessions of a new database."""
    with server.database() as dsn:
        yield Sessions(dsn)


def send(sessions, count=SENT, first=0):
    """Send notifications, a hundred in each transaction."""
    for begin in range(first, first + count, 100):
        sessions.execute(
            "SELECT pg_notify('orders', json_build_object('n', n, 'x', repeat('x', %s))::text)"
            " FROM generate_series(%s::int, %s) AS n",
            LONG,
            begin,
            begin + 99,
        )


def usage(sessions):
    """Return how full the server's queue is."""
    return sessions.execute("SELECT pg_notification_queue_usage()")[0][0]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("bound", [{"buffer_size": SIZE}, {"buffer_bytes": SIZE * (LONG + 20)}])
def test_dropping(make_notifier, sessions, stuck, overflow, bound, caplog):
    """The buffer stays bounded, drops are counted and reported, and the server's queue empties."""
    caplog.set_level(logging.WARNING, "pgnotifier")
    gaps = []
    notifier = make_notifier(
        sessions.dsn,
        dispatcher=stuck.dispatcher,
        overflow=overflow,
        on_gap=gaps.append,
        **bound,
    )
    notifier.subscribe("book", "orders", stuck)
    notifier.start()
    # Its dispatcher holds what it took before it got stuck: a batch at most.
    most = SIZE + stuck.dispatcher.batch_size
    # The queue has room for 448 of them, in case the listener's session doesn't read meanwhile.
    for begin in range(0, SENT, SENT_AT_ONCE):
        send(sessions, SENT_AT_ONCE, begin)
        (status,) = notifier.status().dispatchers
        # What was just read, or taken, may be counted twice, as the status is made without a lock.
        assert status.waiting <= most + SENT_AT_ONCE
        eventually(lambda: usage(sessions) == 0)
        eventually(lambda: notifier.status().dispatchers[0].waiting <= most)
    eventually(lambda: notifier.status().received == SENT)
    (status,) = notifier.status().dispatchers
    kept = SENT - status.dropped
    assert kept - status.waiting in (0, 1)  # a callback may hold one
    eventually(lambda: gaps)
    stuck.recover()
    eventually(lambda: len(stuck.got) == kept, 60)
    got = stuck.got
    assert got == sorted(set(got))
    if overflow == "drop_oldest":
        in_hand = kept - SIZE
        assert got[in_hand + 5 :] == list(range(SENT - SIZE + 5, SENT))
    else:
        # Some may have arrived and been dropped before its dispatcher took the first.
        assert got[: SIZE - 5] == list(range(SIZE - 5))
    eventually(lambda: notifier.status().gaps == len(gaps))
    assert {gap.channels for gap in gaps} == {frozenset({"orders"})}
    assert len(caplog.records) == 1 + isinstance(stuck, DeadBroker), caplog.messages


def test_blocking(make_notifier, sessions, stuck):
    """By default nothing is lost: what doesn't fit into the buffer waits in the server's queue."""
    notifier = make_notifier(sessions.dsn, dispatcher=stuck.dispatcher, buffer_size=SIZE)
    notifier.subscribe("book", "orders", stuck)
    notifier.start()
    sent = 0
    # The connection's buffers have to be full, too.
    while not notifier.status().dispatchers[0].full or usage(sessions) == 0:
        assert sent < 100 * SENT
        send(sessions, 100, sent)
        sent += 100
        # The queue must not fill up before the buffer does, if the session is slow to read.
        eventually(lambda: notifier.status().dispatchers[0].full or usage(sessions) < 0.7)
    assert notifier.status().received < sent
    stuck.recover()
    eventually(lambda: len(stuck.got) == sent, 60)
    assert stuck.got == list(range(sent))
    assert notifier.status().dispatchers[0].dropped == 0
    eventually(lambda: usage(sessions) == 0)


def test_a_long_queue_is_read_by_and_by(make_notifier, sessions, monkeypatch):
    """While a query's answer is awaited, the server's whole queue isn't read at once."""
    monkeypatch.setattr(round_trips, "PROOF", 0.0)  # a query is always due
    monkeypatch.setattr(buffer, "MORE", 100)

    class Slow(Dispatcher):
        """Delivers slowly, and records the highest number of waiting notifications."""

        batch_size = 10

        def __init__(self):
            self.got, self.most, self.begun = 0, 0, threading.Event()

        def bind(self, subscription):
            return subscription.fn

        def dispatch(self, batch):
            assert self.begun.wait(60)
            self.most = max(self.most, notifier.status().dispatchers[0].waiting)
            time.sleep(0.001 * len(batch))
            self.got += len(batch)
            batch.done(len(batch))

    slow = Slow()
    notifier = make_notifier(sessions.dsn, dispatcher=slow, buffer_size=100, heartbeat_timeout=0.5)
    notifier.subscribe("book", "orders", print)
    notifier.start()
    sent = 0
    while usage(sessions) < 0.5:
        send(sessions, 100, sent)
        sent += 100
    slow.begun.set()
    eventually(lambda: slow.got == sent, 60)
    read_at_once = reader_connection.READS * reader_connection.READ_BYTES // LONG
    assert slow.most <= 2 * 100 + 10 + 2 * read_at_once  # before a query, and with it
    assert notifier.status().reconnects == 0
