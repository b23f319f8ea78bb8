"""Connections that can't be made: the call that needs one raises, and no password is shown."""

import logging
import socket
import threading
import traceback

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier import ConnectionFailedError, ListenRefusedError, PgNotifierError
from pgnotifier._connection.session import Session
from pgnotifier.testing import PostgresServer

PASSWORD = "hunter2-s3cret"
WRONG = "wr0ng-t00"


@pytest.fixture(scope="module")
def scram_server():
    """Yield a server that is reached through TCP, with a password."""
    with PostgresServer(tcp=True, password=PASSWORD) as server:
        if server.is_external:
            pytest.skip("needs a server with a password of its own: unset PGNOTIFIER_TEST_DSN")
        yield server


def closed_port():
    """Return a socket bound to a port, on which nothing listens, so that the port stays closed."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder


CALLS = {
    "start": lambda n: n.start(),
    "run": lambda n: n.run(),
    "restart": lambda n: n.restart(),
    "add_channels": lambda n: n.add_channels(["a"]),
    "add_channel": lambda n: n.add_channel("a"),
    "subscribe": lambda n: n.subscribe(1, "a", print),
    "on": lambda n: n.on("a")(print),
    "notify": lambda n: n.notify("a"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_at_the_call_that_needs_it(make_notifier, call):
    """The first call that needs the connection raises, and the notifier doesn't run."""
    with closed_port() as holder:
        notifier = make_notifier({"host": "127.0.0.1", "port": holder.getsockname()[1]})
        with pytest.raises(ConnectionFailedError, match="refused") as caught:
            call(notifier)
    assert isinstance(caught.value, ConnectionError)
    assert not notifier.is_running()
    assert notifier.status().state == "stopped"
    assert notifier.wait(0)


def test_a_missing_socket(make_notifier):
    """If the server's Unix socket doesn't exist, the error names its path."""
    notifier = make_notifier({"host": "/nowhere/at/all", "port": 5433})
    with pytest.raises(ConnectionFailedError, match="/nowhere/at/all"):
        notifier.start()
    assert not notifier.is_running()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dbname": "not_there"}, 'database "not_there" does not exist'),
        ({"user": "nobody_here"}, 'role "nobody_here" does not exist'),
    ],
)
def test_what_does_not_exist(pgnotifier_dsn, make_notifier, wrong, message):
    """If a database or role doesn't exist, the error has the server's message."""
    notifier = make_notifier(make_conninfo(pgnotifier_dsn, **wrong))
    for call in (notifier.start, notifier.start, lambda: notifier.add_channels("a")):
        with pytest.raises(ConnectionFailedError, match=message):
            call()
        assert not notifier.is_running()


def test_started_later(pgnotifier_postgres, make_notifier, record):
    """A notifier that failed to start can start later, with all that was registered."""
    name = "comes_later"
    notifier = make_notifier(pgnotifier_postgres.dsn_for(name))
    with pytest.raises(ConnectionFailedError):
        notifier.subscribe(1, "a", record)
    with pytest.raises(ConnectionFailedError):
        notifier.add_channels(["b"])
    assert notifier.get_channels() == {"a", "b"}
    pgnotifier_postgres.create_database(name)
    try:
        notifier.start()
        notifier.notify("a", "received")
        assert record.wait_for(1) == ["received"]
    finally:
        notifier.stop()
        pgnotifier_postgres.drop_database(name)


def test_from_several_threads_at_once(make_notifier):
    """If several calls wait for one start and it fails, each of them raises."""
    caught = []

    def subscribe(number):
        try:
            notifier.subscribe(number, f"channel {number}", print)
        except PgNotifierError as exc:
            caught.append(exc)

    with closed_port() as holder:
        notifier = make_notifier({"host": "127.0.0.1", "port": holder.getsockname()[1]})
        threads = [threading.Thread(target=subscribe, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [type(exc) for exc in caught] == [ConnectionFailedError] * 10
    assert not notifier.is_running()


def test_started_by_another_thread_meanwhile(make_notifier):
    """A call waits for a start that another thread begins after the call has registered."""

    class Starting(logging.Handler):
        def emit(self, record):
            notifier.begin()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        notifier = make_notifier({"host": "127.0.0.1", "port": port, "connect_timeout": 2})
        notifier.subscribe(1, "orders", print, autorun=False)
        handler = Starting()
        spelling = logging.getLogger("pgnotifier.spelling")
        spelling.addHandler(handler)
        try:  # between registering and starting, a warning is logged: the names differ by case
            with pytest.raises(ConnectionFailedError):
                notifier.subscribe(1, "Orders", print)
        finally:
            spelling.removeHandler(handler)


def shown(notifier, caught, caplog):
    """Return all the text that a user may see of a failure."""
    return "\n".join(
        [
            caplog.text,
            repr(notifier),
            str(notifier.status()),
            str(notifier.status().to_dict()),
            *(str(exc) + repr(exc) for exc in caught),
            *("".join(traceback.format_exception(exc)) for exc in caught),
        ]
    )


def as_uri(dsn, password):
    known = conninfo_to_dict(dsn)
    return (
        f"postgresql://{known['user']}:{password}@{known['host']}:{known['port']}/{known['dbname']}"
    )


@pytest.mark.parametrize("form", [conninfo_to_dict, str, as_uri])
def test_a_wrong_password(scram_server, make_notifier, caplog, form):
    """For a wrong password, the error has the server's message; the password is shown nowhere."""
    caplog.set_level(logging.DEBUG)
    dsn = make_conninfo(scram_server.dsn, password=WRONG)
    notifier = make_notifier(form(dsn, WRONG) if form is as_uri else form(dsn))
    caught = []
    for call in CALLS.values():
        with pytest.raises(ConnectionFailedError, match="password authentication failed") as info:
            call(notifier)
        caught.append(info.value)
    assert not notifier.is_running()
    text = shown(notifier, caught, caplog)
    assert "127.0.0.1" in text
    assert WRONG not in text


@pytest.mark.parametrize("form", [conninfo_to_dict, str])
def test_a_right_password(scram_server, make_notifier, caplog, record, form):
    """The right password is shown nowhere, also after a restart."""
    caplog.set_level(logging.DEBUG)
    notifier = make_notifier(form(scram_server.dsn))
    notifier.subscribe(1, "a", record)
    notifier.restart()
    notifier.notify("a", "received")
    assert record.wait_for(1) == ["received"]
    assert PASSWORD not in shown(notifier, [], caplog)


def test_no_rights(scram_server, make_notifier):
    """If a role may not connect to the database, the error has the reason."""
    with psycopg.connect(scram_server.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE closed")
        admin.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        admin.execute(sql.SQL("CREATE ROLE guest LOGIN PASSWORD {}").format(PASSWORD))
    notifier = make_notifier(make_conninfo(scram_server.dsn, user="guest", dbname="closed"))
    with pytest.raises(ConnectionFailedError, match="permission denied"):
        notifier.start()


def test_refused_at_the_start(pgnotifier_dsn, make_notifier, monkeypatch, record):
    """If the server refuses LISTEN, the call raises, adds no channel, and starts nothing."""
    send = Session.send

    def refusing(self, query):
        send(self, query.replace(b"LISTEN", b"REFUSE"))

    with monkeypatch.context() as patch:
        patch.setattr(Session, "send", refusing)
        notifier = make_notifier(pgnotifier_dsn)
        with pytest.raises(ListenRefusedError, match="refused LISTEN"):
            notifier.subscribe(1, "a", record)
        with pytest.raises(ListenRefusedError, match="refused LISTEN"):
            notifier.add_channels(["b", "c"])
        assert not notifier.is_running()
        assert notifier.get_channels() == set()
    notifier.subscribe(1, "a", record)
    notifier.notify("a", "received")
    assert record.wait_for(1) == ["received"]


def test_refused_while_running(notifier, monkeypatch, record, make_recorder):
    """After a refused LISTEN, the subscription that it was to replace is unchanged."""
    notifier.subscribe(1, "a", record)
    refused = make_recorder()
    with monkeypatch.context() as patch:
        patch.setattr("pgnotifier._listener.reader_connection.listen_query", lambda *_: b"REFUSE")
        for channel in ("a", "b"):
            with pytest.raises(ListenRefusedError, match="refused LISTEN"):
                notifier.subscribe(1, channel, refused)
    assert notifier.get_subscriptions() == {"a": {1: record}}
    notifier.notify("a", "received")
    assert record.wait_for(1) == ["received"]
    assert refused.payloads == []


class Standby(PostgresServer):
    """A server that can be restarted as a standby."""

    def _is_ready(self, pid):
        """Return whether the lock file says `ready`, or `standby` for a standby server."""
        lock_file = self._owned().directory / "data/postmaster.pid"
        words = lock_file.read_text().split() if lock_file.exists() else []
        return words[-1:] in (["ready"], ["standby"])


def test_a_standby(make_notifier):
    """LISTEN on a standby server raises; once the server is promoted, it succeeds."""
    with Standby() as server:
        if server.is_external:
            pytest.skip("needs a server of its own: unset PGNOTIFIER_TEST_DSN")
        server.stop()
        (server._owned().directory / "data/standby.signal").touch()
        server.start()
        notifier = make_notifier(server.dsn)
        with pytest.raises(ListenRefusedError, match="during recovery"):
            notifier.add_channels(["a"])
        assert not notifier.is_running()
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            assert admin.execute("SELECT pg_promote()").fetchone() == (True,)
        notifier.add_channels(["a"])
        assert notifier.is_running()
        notifier.stop()
