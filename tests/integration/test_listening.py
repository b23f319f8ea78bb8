"""States, heartbeats, and connection parameters that a callable supplies."""

import array
import fcntl
import logging
import termios
import threading
import traceback
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgnotifier import (
    ArgumentTypeError,
    ConfigurationError,
    ConnectionFailedError,
    Notifier,
    StateChange,
)
from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.parameters import KEEPALIVE, Parameters
from pgnotifier._connection.session import Session
from pgnotifier._listener.reader_connection import ReaderConnection
from pgnotifier._listener.router import Router
from pgnotifier._registry.registry import Registry
from pgnotifier.testing import PostgresServer

KEPT = (
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "tcp_user_timeout",
)


def test_states(pgnotifier_dsn, db, make_notifier, eventually):
    """`on_state` is called with each change; if it is disconnected, with the reason."""
    seen = []
    notifier = make_notifier(pgnotifier_dsn, on_state=seen.append)
    begun = datetime.now(UTC)
    notifier.add_channel("a")
    db.terminate()
    eventually(
        lambda: (
            [one.state for one in seen] == ["starting", "listening", "disconnected", "listening"]
        )
    )
    disconnected = seen[2]
    assert "lost the connection" in disconnected.why
    assert begun < disconnected.since <= seen[3].since
    assert disconnected.to_dict() == {
        "state": "disconnected",
        "since": disconnected.since.isoformat(),
        "why": disconnected.why,
    }
    status = notifier.status()
    assert (status.state, status.since, status.why) == ("listening", seen[3].since, None)
    notifier.stop()
    assert seen[-1].state == "stopped"
    assert notifier.status().since == seen[-1].since


def test_states_without_a_connection(make_notifier):
    """If the first connection can't be made, the state changes from starting to stopped."""
    seen = []
    notifier = make_notifier({"host": "/nowhere", "user": "u"}, on_state=seen.append)
    with pytest.raises(ConnectionFailedError):
        notifier.start()
    notifier.stop()
    assert [one.state for one in seen] == ["starting", "stopped"]


def test_a_failing_hook(pgnotifier_dsn, make_notifier, record, db, caplog):
    """If `on_state` raises, the error is logged."""

    def fail(change):
        assert isinstance(change, StateChange)
        raise ZeroDivisionError

    notifier = make_notifier(pgnotifier_dsn, on_state=fail)
    notifier.subscribe(1, "a", record)
    db.notify("a", 1)
    assert record.wait_for(1) == [1]
    notifier.stop()
    assert caplog.text.count("on_state itself failed") == 3


def test_logged_once_per_change(pgnotifier_dsn, db, make_notifier, caplog, eventually):
    """Each change of state is logged once: a lost connection and its return as warnings."""
    caplog.set_level(logging.DEBUG, "pgnotifier.states")
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("a")
    db.terminate()
    eventually(lambda: notifier.status().reconnects == 1)
    notifier.stop()
    states = [one for one in caplog.records if one.name == "pgnotifier.states"]
    found = [(one.levelname, one.getMessage().split()[0]) for one in states]
    assert found == [
        ("DEBUG", "starting"),
        ("INFO", "listening"),
        ("WARNING", "disconnected:"),
        ("WARNING", "listening"),
        ("INFO", "stopped"),
    ]


def test_heartbeat(pgnotifier_dsn, db, make_notifier, record, eventually):
    """An idle listener measures latency with heartbeats, which don't count as received."""
    notifier = make_notifier(pgnotifier_dsn, heartbeat=0.05)
    notifier.subscribe(1, "a", record)
    before = notifier.status().latency
    assert before.count >= 2  # LISTEN and the first heartbeat; more if these took long
    eventually(lambda: notifier.status().latency.count > before.count + 5)
    status = notifier.status()
    assert status.received == 0
    assert 0 < status.latency.mean <= status.latency.highest < 5
    db.notify("a", 1)
    assert record.wait_for(1) == [1]
    assert notifier.status().received == 1


@pytest.mark.parametrize("name", ["heartbeat", "heartbeat_timeout"])
def test_heartbeats_are_seconds(name):
    """A heartbeat setting that isn't a positive number of seconds is refused."""
    with pytest.raises(ArgumentTypeError, match=f"{name} must be a number of seconds"):
        Notifier({}, **{name: "15"})
    for value in (0, -1, 1e9):
        with pytest.raises(ConfigurationError, match=f"{name} must be above 0"):
            Notifier({}, **{name: value})


def test_supplied_parameters(pgnotifier_dsn, db, make_notifier, record, eventually):
    """A callable `db_conf` is called for each connection, so that credentials may change."""
    asked = []

    def supply():
        asked.append(len(asked))
        return {**conninfo_to_dict(pgnotifier_dsn), "application_name": f"try{len(asked)}"}

    notifier = make_notifier(supply)
    assert not asked
    assert "supply" in repr(notifier)
    notifier.subscribe(1, "a", record)
    notifier.restart()
    db.notify("a", 1)
    assert record.wait_for(1) == [1]
    assert asked == [0, 1]
    (name,) = db.execute(
        "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'try%'"
    )
    assert name == ("try2",)
    assert "dbname=" in notifier.status().connection


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt])
def test_supply_fails(pgnotifier_dsn, make_notifier, db, record, eventually, caplog, kind):
    """If `db_conf` raises, connecting fails; the error's message, a secret, isn't shown."""
    failing = [True]

    def supply():
        if failing[0]:
            raise kind("the secret is s3cret")
        return pgnotifier_dsn

    notifier = make_notifier(supply)
    with pytest.raises(ConnectionFailedError, match=f"raised {kind.__name__}") as caught:
        notifier.start()
    assert "s3cret" not in str(caught.value)
    failing[0] = False
    notifier.subscribe(1, "a", record)
    failing[0] = True
    db.terminate()
    eventually(lambda: notifier.status().state == "disconnected")
    failing[0] = False
    eventually(lambda: notifier.status().state == "listening")
    assert "s3cret" not in caplog.text


def test_supply_returns_nonsense(make_notifier):
    """What `db_conf` returns is checked like parameters that are given directly."""
    with pytest.raises(ArgumentTypeError, match="db_conf"):
        make_notifier(lambda: 7).start()
    with pytest.raises(ConfigurationError, match="hots"):
        make_notifier(lambda: {"hots": "x"}).start()


@pytest.mark.parametrize(
    "options",
    ["-c shop.key=x s3cretword", "--shop.key=x\ts3cretword", "-c shop.key=x -Ss3cretword"],
)
def test_refused_options(pgnotifier_dsn, make_notifier, options):
    """The server's error doesn't show a setting of the application's, which may be secret."""
    notifier = make_notifier({**conninfo_to_dict(pgnotifier_dsn), "options": options})
    refused = r"invalid (command-line argument|value)"
    with pytest.raises(ConnectionFailedError, match=refused) as caught:
        notifier.start()
    assert "s3cretword" not in "".join(traceback.format_exception(caught.value))


def test_refused_options_that_are_not_secret(pgnotifier_dsn, make_notifier):
    """The value of PostgreSQL's own setting that the server refuses is shown."""
    options = "-c shop.key=x -c work_mem=much"
    notifier = make_notifier({**conninfo_to_dict(pgnotifier_dsn), "options": options})
    with pytest.raises(ConnectionFailedError, match='parameter "work_mem": "much"'):
        notifier.start()


def test_keepalives():
    """Over TCP, both ends have keepalives of 20 seconds, unless they are set otherwise.

    The server has no user timeout: a client that doesn't read may be alive.
    """
    with PostgresServer(
        tcp=True, settings={"tcp_keepalives_count": 7, "tcp_user_timeout": 9}
    ) as server:
        if server.is_external:
            pytest.skip("needs a server of its own")
        done = threading.Event()
        connecting = Connecting(Parameters(server.dsn), done.set)
        assert done.wait(15)
        connecting.result()  # raises if there is no connection
        with connecting._connection as connection:
            found = [connection.execute(f"SHOW {name}").fetchone()[0] for name in KEPT]
            given = connection.info.get_parameters()
    assert found == ["10", "5", "7", "0"]
    assert [given[name] for name in KEEPALIVE] == ["10", "5", "2", "20000"]
    mine = Parameters({"keepalives_idle": 60, "tcp_user_timeout": 0}).conninfo
    assert "keepalives_idle=60" in mine
    assert "tcp_user_timeout=0" in mine
    assert "keepalives" not in Parameters("service=shop").conninfo


def test_long_notifications_are_read_many_at_a_time(pgnotifier_dsn, db, eventually):
    """One read takes twenty of the longest, where libpq's own buffer has room for two."""
    router = Router(Registry, lambda _: None, set)
    connection = ReaderConnection(Parameters({}), router, 10.0, 60.0, lambda: False)
    connection.session = session = Session(psycopg.connect(pgnotifier_dsn, autocommit=True))
    try:
        connection.change("LISTEN", ["a"])
        connection.read_more_at_a_time()
        db.connection.execute(
            "SELECT pg_notify('a', rpad(n::text, 7900)) FROM generate_series(0, 19) AS n"
        )
        unread = array.array("i", [0])

        def has_all():
            fcntl.ioctl(session.fd, termios.FIONREAD, unread)
            return unread[0] > 20 * 7900

        eventually(has_all)
        session.consume()
        found = iter(session.notifies, None)
        assert [int(one.extra) for one in found] == list(range(20))
    finally:
        connection.end()
