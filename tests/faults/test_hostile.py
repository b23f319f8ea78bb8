"""What a database user without any right except NOTIFY can do to a listener."""

import gc
import os
import secrets
import threading
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGnotify

from pgnotifier import Dispatcher, InlineDispatcher, Subscription
from pgnotifier._listener.router import Router
from pgnotifier._registry.registry import Registry
from pgnotifier.dispatch import Binding
from pgnotifier.payload import decode

from .waiting import eventually

MIB = 1024 * 1024

# What PostgreSQL accepts: no NUL, at most 7,999 bytes.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=1900)
NESTED = st.sampled_from(["[", "{", "(", '{"a":', "-", "1e", "9", "'", '"', "\\", "b'", "set("])
PAYLOADS = TEXTS | st.builds(lambda part, count: part * count, NESTED, st.integers(1, 900))
CHANNELS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15
)
QUICKLY = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def resident():
    """Return the bytes of memory that this process has in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def stranger(pgnotifier_dsn, sessions):
    """Yield a session of a role without any rights."""
    name = f"stranger_{secrets.token_hex(6)}"
    sessions.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    sessions.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    try:
        dsn = make_conninfo(pgnotifier_dsn, user=name, password="x")
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield connection
    finally:
        sessions.execute(f"DROP ROLE {name}")


def test_any_payload_on_any_channel(stranger, make_notifier, pgnotifier_dsn, caplog):
    """Any payload on any channel arrives unchanged, without an error, a gap or a log message."""
    got = []
    notifier = make_notifier(pgnotifier_dsn, decoder=lambda text: (text, decode(text)))
    notifier.subscribe(1, "orders", lambda *arguments: got.append(arguments[2]))

    @QUICKLY
    @given(st.lists(st.tuples(CHANNELS | st.just("orders"), PAYLOADS), max_size=20))
    def send(pairs):
        got.clear()
        for channel, payload in [*pairs, ("orders", "last")]:
            stranger.execute("SELECT pg_notify(%s, %s)", (channel, payload))
        eventually(lambda: got and got[-1] == ("last", "last"))
        expected = [payload for channel, payload in pairs if channel == "orders"]
        assert [text for text, _ in got[:-1]] == expected

    send()
    status = notifier.status()
    assert (status.state, status.errors, status.gaps, status.reconnects) == ("listening", 0, 0, 0)
    assert caplog.messages == []


def test_it_can_touch_no_session(stranger, make_notifier, pgnotifier_dsn, sessions):
    """The user can neither end the listener's session nor see its heartbeats' channel."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("orders")
    (pid,) = sessions.pids()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        stranger.execute("SELECT pg_terminate_backend(%s)", (pid,))
    ((query,),) = stranger.execute(
        "SELECT query FROM pg_stat_activity WHERE pid = %s", (pid,)
    ).fetchall()
    assert query == "<insufficient privilege>"
    assert stranger.execute("SELECT pg_listening_channels()").fetchall() == []


def test_a_flood(stranger, make_notifier, pgnotifier_dsn):
    """A flood fills the buffer up to its size; then reading pauses, and nothing is lost."""
    going_on, got = threading.Event(), []

    def slow(*arguments):
        assert going_on.wait(30)
        got.append(arguments[2])

    notifier = make_notifier(pgnotifier_dsn, buffer_size=100)
    notifier.subscribe(1, "orders", slow)
    for number in range(40):
        stranger.execute(
            "SELECT count(pg_notify('orders', (n + %s)::text)) FROM generate_series(0, 99) n",
            (number * 100,),
        )
    eventually(lambda: notifier.status().dispatchers[0].full)
    going_on.set()
    eventually(lambda: len(got) == 4000)
    assert got == list(range(4000))


def test_its_names_are_quoted(stranger, make_notifier, pgnotifier_dsn, sessions):
    """A channel name that contains SQL is quoted, and isn't executed."""
    notifier = make_notifier(pgnotifier_dsn)
    name = 'x"; CREATE TABLE stolen (); --'
    notifier.add_channel(name)
    stranger.execute(sql.SQL("NOTIFY {}, {}").format(sql.Identifier(name), "1"))
    eventually(lambda: notifier.status().received == 1)
    ((found,),) = sessions.execute("SELECT to_regclass('stolen')")
    assert found is None


@QUICKLY
@given(st.lists(st.tuples(st.binary(max_size=63) | st.just(b"orders"), st.binary(max_size=200))))
def test_any_bytes(arrived):
    """Arbitrary bytes, which no PostgreSQL would send, are routed or ignored without an error."""
    put = []

    class Deliverer:
        full = False

        def __init__(self):
            self.inbox = []
            self.succession = SimpleNamespace()

        def start(self):
            """Do nothing."""

        def stow(self):
            """Take what has arrived."""
            put.extend(self.inbox)
            self.inbox = []

        def ring(self):
            """Do nothing."""

    inline = InlineDispatcher()
    binding = Binding(Subscription(1, "orders", print, inline), print, print)
    registry = Registry().bind(binding)
    router = Router(lambda: registry, lambda _: Deliverer(), set)
    waiting = [PGnotify(relname=name, be_pid=1, extra=data) for name, data in arrived]
    router.sort(lambda: waiting.pop(0) if waiting else None, None, lambda: False)
    router.hand_on()
    assert [item.data for item in put] == [data for name, data in arrived if name == b"orders"]
    assert router.echoes == {}
    assert router.received == len(arrived)


@pytest.mark.parametrize("gathered", [{}, {"batch": (100_000, 3600)}])
def test_a_flood_of_long_payloads(stranger, make_notifier, pgnotifier_dsn, gathered):
    """Many megabytes of payloads that decode to thirty times their size don't fill the memory."""
    hung = threading.Event()

    class Hung(Dispatcher):
        """Takes nothing until the test is over."""

        def bind(self, subscription):
            return subscription.fn

        def dispatch(self, batch):
            if not gathered:
                assert hung.wait(120)
            batch.done(len(batch))

    notifier = make_notifier(
        pgnotifier_dsn, dispatcher=Hung(), overflow="drop_oldest", buffer_bytes=16 * MIB
    )
    notifier.subscribe(1, "orders", print, **gathered)
    notifier.start()
    gc.collect()
    before, most = resident(), 0
    for number in range(5):
        stranger.execute(
            "SELECT count(pg_notify('orders', %s || n || ']')) FROM generate_series(0, 999) n",
            (f"[{number}," + "[]," * 2600,),
        )
        most = max(most, resident() - before)
    eventually(lambda: notifier.status().received == 5000, 60)
    most = max(most, resident() - before)
    hung.set()
    assert most < 150 * MIB
