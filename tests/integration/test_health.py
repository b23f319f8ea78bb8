"""Whether a process lives and is ready, as probes ask."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from celery import Celery

from pgnotifier import ArgumentTypeError, ConfigurationError, ConnectionFailedError, Notifier
from pgnotifier.connection import Parameters
from pgnotifier.contrib.celery import CeleryDispatcher


def ask(port, path):
    """Return the status and the body of an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=15) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def run(*arguments):
    """Run `pgnotifier health`."""
    code = "from pgnotifier.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "health", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_hearing_and_deaf(pgnotifier_dsn, db, make_notifier, free_port, monkeypatch, eventually):
    """A deaf listener lives, and isn't ready; a stopped one answers nothing."""
    notifier = make_notifier(pgnotifier_dsn, health_port=free_port)
    notifier.add_channel("a")
    for path in ("/healthz", "/readyz", "/readyz?verbose"):
        assert ask(free_port, path) == (200, {"ok": True, "states": ["hearing"], "trouble": []})
    assert run("--port", free_port).returncode == 0

    def refuse(self, **_options):
        raise ConnectionFailedError("refused by the test")

    with monkeypatch.context() as patch:
        patch.setattr(Parameters, "connect", refuse)
        db.terminate()
        eventually(lambda: notifier.status().state == "deaf")
        status, body = ask(free_port, "/readyz")
        assert status == 503
        assert "deaf since" in body["trouble"][0]
        assert ask(free_port, "/healthz")[0] == 200
        done = run("--port", free_port)
        assert (done.returncode, done.stdout) == (1, "")
        assert "deaf since" in done.stderr
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
    """A broker that can't be reached is trouble, of which the process lives on."""
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


def test_a_port_in_use(pgnotifier_dsn, make_notifier, free_port):
    """It is an error of `start()`, before anything is connected, and nothing is left running."""
    first = make_notifier(pgnotifier_dsn, health_port=free_port)
    first.add_channel("a")
    second = make_notifier(pgnotifier_dsn, health_port=free_port)
    with pytest.raises(ConfigurationError, match=f"health_port {free_port} can't be opened"):
        second.add_channel("a")
    assert not second.is_running()
    first.stop()
    second.start()
    assert ask(free_port, "/healthz")[0] == 200


def test_no_connection(make_notifier, free_port):
    """When the first connection can't be made, the port is closed again."""
    notifier = make_notifier({"host": "/nowhere"}, health_port=free_port)
    with pytest.raises(ConnectionFailedError):
        notifier.start()
    with pytest.raises(urllib.error.URLError):
        ask(free_port, "/healthz")
    assert "pgnotifier-health" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("port", "error"),
    [("80", ArgumentTypeError), (True, ArgumentTypeError), (0, ConfigurationError)],
)
def test_ports(port, error):
    """What isn't a port is refused at once."""
    with pytest.raises(error, match="health_port"):
        Notifier({}, health_port=port)
