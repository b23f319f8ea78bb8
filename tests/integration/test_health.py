"""Liveness and readiness probes of a process."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery

from pgnotifier import (
    ArgumentTypeError,
    ConfigurationError,
    ConnectionFailedError,
    InlineDispatcher,
    Notifier,
)
from pgnotifier._connection.parameters import Parameters
from pgnotifier._delivery import readiness as probing
from pgnotifier._health import http_server as answering
from pgnotifier._health.health_server import HealthServer
from pgnotifier.cli.probing import probe
from pgnotifier.contrib.celery import CeleryDispatcher


def ask(port, path):
    """Return the status and the body of a response."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


@pytest.fixture
def run(preforked):
    """Return a function that runs `pgnotifier health`."""

    def run(*arguments):
        code = "from pgnotifier.cli import main; main()"
        argv = ["-c", code, "health", *map(str, arguments)]
        return preforked.run("core", argv, env=dict(os.environ))

    return run


def test_listening_and_disconnected(
    pgnotifier_dsn, db, make_notifier, free_port, monkeypatch, eventually, run
):
    """A disconnected listener is live, but not ready; a stopped one closes the port."""
    notifier = make_notifier(pgnotifier_dsn, health_port=free_port)
    notifier.add_channel("a")
    for path in ("/healthz", "/readyz", "/readyz?verbose"):
        assert ask(free_port, path) == (200, {"ok": True, "states": ["listening"], "trouble": []})
    done = run("--port", free_port)
    assert (done.returncode, done.stdout) == (0, "listening\n")

    def refuse(self, **_options):
        raise ConnectionFailedError("refused by the test")

    with monkeypatch.context() as patch:
        patch.setattr(Parameters, "connect", refuse)
        db.terminate()
        eventually(lambda: notifier.status().state == "disconnected")
        status, body = ask(free_port, "/readyz")
        assert status == 503
        assert "disconnected since" in body["trouble"][0]
        assert ask(free_port, "/healthz")[0] == 200
        done = run("--port", free_port)
        assert (done.returncode, done.stdout) == (1, "")
        assert "disconnected since" in done.stderr
        done = run("--port", free_port, "--json")
        shown = json.loads(done.stdout)
        assert (done.returncode, shown["ok"], shown["states"]) == (1, False, ["disconnected"])
        assert "disconnected since" in shown["trouble"][0]
        assert run("--port", free_port, "--live").returncode == 0
    eventually(lambda: ask(free_port, "/readyz")[0] == 200)
    assert ask(free_port, "/other")[0] == 404
    notifier.stop()
    done = run("--port", free_port)
    assert done.returncode == 1
    assert "no answer" in done.stderr
    notifier.start()
    assert ask(free_port, "/readyz")[0] == 200


def test_the_broker(pgnotifier_dsn, make_notifier, free_port, pgnotifier_redis_url):
    """If the broker can't be reached, the process isn't ready, but live."""
    app = Celery("health", broker=pgnotifier_redis_url, set_as_current=False)
    notifier = make_notifier(
        pgnotifier_dsn, dispatcher=CeleryDispatcher(app), health_port=free_port, autorun=True
    )
    notifier.add_channel("a")
    assert ask(free_port, "/readyz")[0] == 200
    app.conf.broker_url = "redis://127.0.0.1:1/0"
    status, body = ask(free_port, "/readyz")
    assert (status, body["trouble"]) == (503, ["CeleryDispatcher can't reach its queue"])
    assert ask(free_port, "/healthz")[0] == 200


def test_entries_that_wait_too_long(log, make_notifier, free_port, eventually):
    """If the oldest entry has waited for longer than `max_age`, the process isn't ready."""
    notifier = make_notifier(log.dsn, health_port=free_port)
    came, go = threading.Event(), threading.Event()

    def wait(*_):
        came.set()
        go.wait(60)

    limit = timedelta(milliseconds=50)
    notifier.subscribe("invoice", "paid", wait, durable=True, max_age=limit)
    assert notifier.get_durability("invoice", "paid").to_dict()["max_age"] == str(limit)
    assert ask(free_port, "/readyz")[0] == 200
    log.publish("paid", 1, 2)
    assert came.wait(60)
    try:
        eventually(lambda: ask(free_port, "/readyz")[0] == 503)
        (why,) = ask(free_port, "/readyz")[1]["trouble"]
        assert why.startswith("subscription 'invoice' on channel 'paid': the oldest entry has wai")
        assert why.endswith("and may wait for 0.1 s (max_age)")
        assert ask(free_port, "/healthz")[0] == 200
    finally:
        go.set()
    eventually(lambda: ask(free_port, "/readyz")[0] == 200)


def test_durable_subscriptions(log, make_notifier, free_port, eventually, run):
    """The bodies show durable subscriptions and the log, as `status()` does, without payloads."""

    def fail(*_):
        raise ValueError("no")

    def figures():
        return {one["id"]: one for one in ask(free_port, "/readyz")[1]["durable"]}

    notifier = make_notifier(log.dsn, health_port=free_port)
    notifier.add_channel("a")
    assert "durable" not in ask(free_port, "/readyz")[1]
    log.publish("paid", "a secret payload")
    notifier.subscribe("invoice", "paid", fail, durable=True, start="oldest")
    notifier.subscribe("audit", "paid", lambda *_: None, durable=True)
    eventually(lambda: figures()["invoice"]["failed"] == 1)
    eventually(lambda: ask(free_port, "/readyz")[1]["logs"])
    for path in ("/healthz", "/readyz"):
        status, body = ask(free_port, path)
        assert (status, list(body)) == (200, ["ok", "states", "trouble", "durable", "logs"])
        assert "secret" not in str(body)
        (size,) = (one["size"] for one in body["logs"])
        assert size > 0
    for one in notifier.status().durable:
        shown = figures()[one.id]
        assert shown.keys() == one.to_dict().keys() - {"why"}
        assert shown["channel"] == "paid"
    assert figures()["invoice"]["attempts"] >= 1
    assert figures()["audit"]["attempts"] == 0
    state = notifier.status().log.to_dict()
    assert ask(free_port, "/readyz")[1]["logs"][0].keys() == state.keys()
    shown = json.loads(run("--port", free_port, "--json").stdout)
    assert {one["id"] for one in shown["durable"]} == {"invoice", "audit"}
    assert shown["logs"][0].keys() == state.keys()


def test_a_log_that_can_not_be_read(log, make_notifier, free_port, eventually):
    """It shows since when the log can't be read, but not why: that may contain addresses."""
    notifier = make_notifier(log.dsn, health_port=free_port)
    notifier.subscribe("invoice", "paid", print, durable=True)
    log.execute("ALTER SCHEMA pgnotifier RENAME TO away")
    try:
        eventually(lambda: ask(free_port, "/readyz")[1]["durable"][0]["since"] is not None)
        (one,) = ask(free_port, "/readyz")[1]["durable"]
        assert "why" not in one
        assert notifier.status().durable[0].why
    finally:
        log.execute("ALTER SCHEMA away RENAME TO pgnotifier")


@pytest.mark.parametrize(
    ("max_age", "error"),
    [(5, ArgumentTypeError), ("5 minutes", ArgumentTypeError), (timedelta(0), ConfigurationError)],
)
def test_ages_that_can_not_be_limits(pgnotifier_dsn, make_notifier, max_age, error):
    """`max_age` is a positive timedelta, of a durable subscription."""
    notifier = make_notifier(pgnotifier_dsn)
    with pytest.raises(error, match="max_age must be"):
        notifier.subscribe("invoice", "paid", print, durable=True, max_age=max_age)
    with pytest.raises(ConfigurationError, match="max_age needs durable=True"):
        notifier.subscribe("invoice", "paid", print, max_age=timedelta(1))
    assert notifier.get_channels() == set()


def test_a_port_in_use(pgnotifier_dsn, make_notifier, free_port):
    """If the port is in use, starting raises, and the notifier doesn't run."""
    first = make_notifier(pgnotifier_dsn, health_port=free_port)
    first.add_channel("a")
    second = make_notifier(pgnotifier_dsn, health_port=free_port)
    with pytest.raises(ConfigurationError, match=f"health_port {free_port} can't be opened"):
        second.add_channel("a")
    assert not second.is_running()
    first.stop()
    second.start()
    assert ask(free_port, "/healthz")[0] == 200


def test_no_descriptor(free_port):
    """If no descriptor is left, it isn't the port that is wrong: another try may succeed."""
    server = HealthServer([], free_port)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(ConnectionFailedError, match="Too many open files"):
            server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    server.start()
    server.stop()


def test_no_connection(make_notifier, free_port, eventually):
    """If the first connection can't be made, the port is closed again."""
    notifier = make_notifier({"host": "/nowhere"}, health_port=free_port)
    with pytest.raises(ConnectionFailedError):
        notifier.start()
    with pytest.raises(urllib.error.URLError):
        ask(free_port, "/healthz")
    eventually(lambda: "pgnotifier-health" not in [one.name for one in threading.enumerate()])


CROWD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
address = ("127.0.0.1", int(sys.argv[1]))
crowd = [socket.create_connection(address) for _ in range(int(sys.argv[2]))]
print("connected", flush=True)
sys.stdin.read()
"""


def count_resources():
    """Return the numbers of threads and of file descriptors of this process."""
    return threading.active_count(), len([*Path("/proc/self/fd").iterdir()])


def test_a_crowd_that_says_nothing(pgnotifier_dsn, db, make_notifier, free_port, eventually):
    """1,100 idle connections take few descriptors and no thread; probes are still answered."""
    notifier = make_notifier(pgnotifier_dsn, health_port=free_port)
    notifier.add_channel("a")
    assert ask(free_port, "/readyz")[0] == 200
    threads, descriptors = count_resources()
    command = [sys.executable, "-c", CROWD, str(free_port), "1100"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as crowd:
        assert crowd.stdout.readline() == "connected\n"
        for path in ("/healthz", "/readyz"):
            assert ask(free_port, path)[0] == 200
        eventually(lambda: count_resources()[0] <= threads + 2)  # the threads of checks end soon
        assert count_resources()[1] <= descriptors + answering.MAX_CONNECTIONS + 10
        db.terminate()
        eventually(lambda: notifier.status().reconnects == 1)
        eventually(lambda: ask(free_port, "/readyz")[0] == 200)
        crowd.stdin.close()
    eventually(lambda: count_resources()[1] <= descriptors + 3)


def test_a_client_that_dawdles(pgnotifier_dsn, make_notifier, free_port, monkeypatch):
    """A client that sends its request too slowly is disconnected."""
    monkeypatch.setattr(answering, "REQUEST_TIMEOUT", 1.0)
    make_notifier(pgnotifier_dsn, health_port=free_port).add_channel("a")
    begun = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", free_port), timeout=0.1) as client,
        pytest.raises(ConnectionError),
    ):
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        while time.monotonic() < begun + 20:
            try:
                client.sendall(b"a: b\r\n")
                if client.recv(1) == b"":
                    raise ConnectionError
            except TimeoutError:
                pass
    assert 0.9 < time.monotonic() - begun < 15


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\n\n", 200),
        (b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"HEAD /readyz?verbose HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789", 405),
        (b"GET /other HTTP/1.1\r\n\r\n", 404),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 100_000 + b"\r\n", 431),
        (b"\0" * 100_000, 431),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else value,
)
def test_requests(pgnotifier_dsn, make_notifier, free_port, request_bytes, status):
    """Each request gets a response, with a body unless it is HEAD; so does the next request."""
    make_notifier(pgnotifier_dsn, health_port=free_port).add_channel("a")
    with socket.create_connection(("127.0.0.1", free_port), timeout=15) as client:
        client.sendall(request_bytes)
        client.shutdown(socket.SHUT_WR)  # as `nc -N` does
        received = b""
        while more := client.recv(65536):
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    if request_bytes.startswith(b"HEAD"):
        assert body == b""
    else:
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
        json.loads(body)
    assert ask(free_port, "/healthz")[0] == 200


class Stuck(InlineDispatcher):
    """A dispatcher with a queue that doesn't answer."""

    def __init__(self):
        super().__init__()
        self.asked = 0
        self.answers = threading.Event()

    def is_reachable(self):
        self.asked += 1
        return self.answers.wait(60)


def test_a_queue_that_does_not_answer(
    pgnotifier_dsn, make_notifier, free_port, monkeypatch, eventually
):
    """A queue that hangs is checked once for all probes; liveness doesn't wait for it."""
    monkeypatch.setattr(probing, "PROBE_TIMEOUT", 2.0)
    stuck = Stuck()
    notifier = make_notifier(pgnotifier_dsn, dispatcher=stuck, health_port=free_port)
    notifier.add_channel("a")
    threads = threading.active_count()
    answers = []
    askers = [
        threading.Thread(target=lambda: answers.append(ask(free_port, "/readyz")))
        for _ in range(20)
    ]
    for asker in askers:
        asker.start()
    eventually(lambda: stuck.asked)
    assert ask(free_port, "/healthz")[0] == 200
    for asker in askers:
        asker.join(60)
    trouble = "Stuck got no answer from its queue within 2 s"
    assert answers == [(503, {"ok": False, "states": ["listening"], "trouble": [trouble]})] * 20
    assert notifier.readiness_problems() == [trouble]
    assert stuck.asked == 1
    eventually(lambda: threading.active_count() <= threads + 2)
    stuck.answers.set()
    eventually(lambda: notifier.readiness_problems() == [])
    assert ask(free_port, "/readyz")[0] == 200


def test_a_broker_that_does_not_answer(pgnotifier_dsn, make_notifier, monkeypatch):
    """A broker that accepts connections and never answers is reported after a timeout."""
    monkeypatch.setattr(probing, "PROBE_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        app = Celery("silent", broker=url, set_as_current=False)
        notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app))
        begun = time.monotonic()
        stopped, trouble = notifier.readiness_problems()
        assert time.monotonic() - begun < 15
    assert stopped.startswith("stopped since")
    assert trouble == "CeleryDispatcher got no answer from its queue within 1 s"


@pytest.mark.parametrize(("host", "others"), [(None, ["127.0.0.2", "::1"]), ("::1", ["127.0.0.1"])])
def test_where_it_answers(pgnotifier_dsn, make_notifier, free_port, run, host, others):
    """The port is open on 127.0.0.1 only, or on `health_host` only."""
    make_notifier(pgnotifier_dsn, health_port=free_port, health_host=host).add_channel("a")
    own = host or "127.0.0.1"
    assert probe(free_port, host=own)[0]
    assert run("--port", free_port, "--host", own).returncode == 0
    for other in others:
        assert "no answer" in probe(free_port, host=other).trouble[0]


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "localhost"])
def test_all_addresses(pgnotifier_dsn, make_notifier, free_port, host):
    """`::` stands for all IPv4 and IPv6 addresses, and a host name for its address."""
    make_notifier(pgnotifier_dsn, health_port=free_port, health_host=host).add_channel("a")
    assert probe(free_port, host="localhost")[0]
    if host != "localhost":
        assert probe(free_port, host="127.0.0.2")[0]
    if host == "::":
        assert probe(free_port, host="::1")[0]


def test_hosts_that_are_none(pgnotifier_dsn, make_notifier, free_port):
    """A value that can't be a host is refused at once; a host that can't be bound, by `start()`."""
    with pytest.raises(ArgumentTypeError, match="health_host must be an address, not 127"):
        Notifier({}, health_port=free_port, health_host=127)
    with pytest.raises(ConfigurationError, match=r"health_host must be an address: .*, not ''"):
        Notifier({}, health_port=free_port, health_host="")
    for host in ("192.0.2.1", "not a host", "a" * 100, "1.2.3.4.5"):
        notifier = make_notifier(pgnotifier_dsn, health_port=free_port, health_host=host)
        with pytest.raises(ConfigurationError, match=f"can't be opened on '{host}'"):
            notifier.start()
        assert not notifier.is_running()


def test_a_fork_lets_go(pgnotifier_dsn, make_notifier, free_port):
    """A forked child doesn't keep the connections and the port of its parent open."""
    notifier = make_notifier(pgnotifier_dsn, health_port=free_port)
    notifier.add_channel("a")
    with socket.create_connection(("127.0.0.1", free_port), timeout=15) as client:
        assert ask(free_port, "/healthz")[0] == 200  # so the client's connection is accepted
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
            child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # wait until the parent is done
            os._exit(0)
        try:
            os.close(reader)
            assert ask(free_port, "/healthz")[0] == 200
            notifier.stop()
            assert client.recv(1) == b""
            assert "no answer" in probe(free_port).trouble[0]
        finally:
            os.close(writer)
            os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("port", "error"),
    [("80", ArgumentTypeError), (True, ArgumentTypeError), (0, ConfigurationError)],
)
def test_ports(port, error):
    """A value that can't be a port is refused at once."""
    with pytest.raises(error, match="health_port"):
        Notifier({}, health_port=port)
