"""`ValkeyServer` and `valkey_server`, on real servers."""

import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import redis

from pgnotifier.testing import ExternalServerError, ServerError, ValkeyServer, valkey_server
from pgnotifier.testing.process import SupervisedProcess

pytestmark = pytest.mark.servers

VARIABLE = ValkeyServer.variable


@pytest.fixture(autouse=True)
def own_servers(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def ask(url, *command):
    with redis.Redis.from_url(url) as client:
        return client.execute_command(*command)


def test_the_url_answers():
    """The server that the context manager runs takes commands."""
    with valkey_server() as url:
        assert urlsplit(url).hostname == "127.0.0.1"
        assert ask(url, "PING")


def test_end_of_the_block_leaves_nothing():
    """Leaving the block removes the process, the directory and the port."""
    with ValkeyServer() as server:
        pid, port = server.pid, urlsplit(server.url).port
        directory = server._process.directory
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not directory.exists()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restarts_under_the_same_address(how, persistent):
    """A server comes back under its address, and with its data if it is persistent."""
    with ValkeyServer(persistent=persistent) as server:
        url = server.url
        for round_ in range(3):
            ask(url, "RPUSH", "queue", round_)
            getattr(server, how)()
            assert not server.is_running()
            with pytest.raises(redis.ConnectionError):
                ask(url, "PING")
            server.start()
            assert server.url == url
            assert ask(url, "LLEN", "queue") == (round_ + 1 if persistent else 0)


def test_nothing_is_written_unless_asked():
    """A server that isn't persistent writes nothing into its directory except for the log."""
    with ValkeyServer() as server:
        ask(server.url, "SET", "a", "1")
        directory = server._process.directory
        server.stop()
        assert [path.name for path in directory.iterdir()] == ["server.log"]


def test_restarts_under_clients_that_keep_trying():
    """Clients that keep reconnecting don't prevent a server from restarting on its port."""
    with ValkeyServer() as server:
        port, done = urlsplit(server.url).port, threading.Event()

        def connect_forever():
            while not done.is_set():
                with socket.socket() as client:
                    # Not connect(): a connection to itself would hold the port for good.
                    client.connect_ex(("127.0.0.1", port))

        with ThreadPoolExecutor(2) as pool:
            try:
                for _ in range(2):
                    pool.submit(connect_forever)
                for _ in range(10):
                    server.kill()
                    server.start()
            finally:
                done.set()
        assert ask(server.url, "PING")


def test_four_start_at_once():
    """Servers that start at the same moment take different ports."""
    servers = [ValkeyServer() for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ValkeyServer.start, servers))
        assert len({ask(server.url, "INFO")["process_id"] for server in servers}) == 4
    finally:
        for server in servers:
            server.close()


def test_takes_another_port_if_another_server_has_it(monkeypatch):
    """If another server answers on the reserved port, the server starts on a different port."""
    with ValkeyServer() as other:
        taken, reserve = urlsplit(other.url).port, SupervisedProcess.reserve_port
        ports = [taken]
        monkeypatch.setattr(
            SupervisedProcess, "reserve_port", lambda self: ports.pop() if ports else reserve(self)
        )
        with ValkeyServer() as server:
            assert urlsplit(server.url).port != taken
            assert ask(server.url, "INFO")["process_id"] == server.pid


def test_gives_up_when_every_port_is_lost(monkeypatch):
    """If every port is taken, the error shows the server's own message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(SupervisedProcess, "reserve_port", lambda _: taken.getsockname()[1])
        with pytest.raises(ServerError, match="Address already in use"):
            ValkeyServer().start()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port can't be kept")
def test_the_port_of_a_stopped_server_is_kept():
    """While a server is stopped, no other socket can be bound to its port."""
    with ValkeyServer() as server:
        server.stop()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", urlsplit(server.url).port))


def test_uses_the_server_that_the_variable_names(monkeypatch):
    """With the variable set, its URL is used, and the server can't be started or stopped."""
    monkeypatch.setenv(VARIABLE, "redis://:s3cret@example.test:1/3")
    with valkey_server() as url:
        assert url == "redis://:s3cret@example.test:1/3"
    with ValkeyServer() as external:
        assert external.is_external
        assert "s3cret" not in repr(external)
        for control in (external.start, external.stop, external.kill, lambda: external.pid):
            with pytest.raises(ExternalServerError, match=f"unset {VARIABLE}"):
                control()
