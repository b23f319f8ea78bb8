"""`RabbitServer`, on a real server."""

import os
import socket
from urllib.parse import urlsplit

import kombu
import pytest

from pgnotifier.testing import ExternalServerError, RabbitServer, ServerNotInstalledError, rabbitmq

pytestmark = pytest.mark.servers


def put(url, name, value):
    confirmed = {"confirm_publish": True}
    with (
        kombu.Connection(url, transport_options=confirmed) as connection,
        connection.SimpleQueue(name) as queue,
    ):
        queue.put(value)


def take(url, name):
    with kombu.Connection(url) as connection, connection.SimpleQueue(name) as queue:
        return queue.get(timeout=10).payload


@pytest.mark.gate  # each start takes long; tests/cluster restart it, too
def test_restarts_under_the_same_address_with_what_it_held(breakable_rabbitmq):
    """After a stop or a kill, the server restarts with its address and its persistent messages."""
    url = breakable_rabbitmq.url
    for how in ("stop", "kill"):
        put(url, how, 1)
        getattr(breakable_rabbitmq, how)()
        assert not breakable_rabbitmq.is_running()
        breakable_rabbitmq.start()
        assert breakable_rabbitmq.url == url
        assert take(url, how) == 1


@pytest.mark.last
def test_leaves_nothing(breakable_rabbitmq):
    """Closing the server removes its processes, directory and ports, Erlang's daemon included."""
    pid, directory = breakable_rabbitmq.pid, breakable_rabbitmq._process.directory
    ports = [urlsplit(breakable_rabbitmq.url).port, *breakable_rabbitmq._inner_ports]
    breakable_rabbitmq.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not directory.exists()
    for port in ports:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    """If RabbitMQ isn't installed, the error says how to install it."""
    monkeypatch.delenv(RabbitServer.variable, raising=False)
    monkeypatch.setattr(rabbitmq, "INSTALLATIONS", "/nonexistent/*")
    with pytest.raises(ServerNotInstalledError, match="apt install rabbitmq-server"):
        RabbitServer().start()


def test_uses_the_server_that_the_variable_names(monkeypatch):
    """With the variable set, its URL is used, and the server can't be started or stopped."""
    monkeypatch.setenv(RabbitServer.variable, "amqp://u:s3cret@example.test//")
    with rabbitmq.rabbit_server() as url:
        assert url == "amqp://u:s3cret@example.test//"
    with pytest.raises(ExternalServerError, match="unset PGNOTIFIER_TEST_AMQP_URL"):
        RabbitServer().start()
