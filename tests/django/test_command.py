"""`manage.py pgnotifier`, as a process; what it can say without one, here."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from pgnotifier.contrib.django import Channel
from pgnotifier.contrib.django.models import Listener
from pgnotifier.contrib.django.notifiers import get_notifier
from pgnotifier.health import probe
from shop.models import orders

HERE = Path(__file__).parent


@pytest.fixture
def start(transactional_db, tmp_path):
    """Yield a function that runs the command on the test's database, until it is ready."""
    running = []

    def start(*args, ready="hearing", **env):
        log = tmp_path / f"log-{len(running)}"
        database = connection.settings_dict
        dsn = f"dbname={database['NAME']} user={database['USER']} host={database['HOST']}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "django", "pgnotifier", *args],
                cwd=HERE,
                env={
                    **os.environ,
                    "DJANGO_SETTINGS_MODULE": "settings",
                    "PYTHONPATH": f"{env.pop('path', HERE)}",
                    "PYTHONUNBUFFERED": "1",
                    "TEST_DJANGO_DSN": f"{dsn} port={database['PORT']}",
                    **env,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the autoreloader has a child
            )
        running.append(process)
        process.log = log.read_text
        from conftest import wait

        wait(lambda: ready in log.read_text() or process.poll() is not None, 60)
        assert ready in log.read_text(), log.read_text()
        return process

    yield start
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


DEFAULT_ONLY = ("--channel", "orders", "--noreload")  # the other database is another test's


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends(start, eventually, number):
    """The admin's row says what it does, and that it has stopped; the exit code is 0."""
    process = start(*DEFAULT_ONLY)
    orders.notify(1)
    orders.notify(2)
    eventually(lambda: Listener.objects.filter(received__gte=2).exists())
    (row,) = Listener.objects.all()
    assert (row.database, row.state) == ("default", "hearing")
    assert not row.is_silent
    assert row.status["dispatchers"][0]["name"] == "SignalDispatcher"
    assert {
        "channel": "orders",
        "receivers": ["shop.notifications.take_order"],
        "tasks": [],
    } in row.channels
    process.send_signal(number)
    assert process.wait(30) == 0
    row.refresh_from_db()
    assert row.state == "stopped"
    assert "everything received was delivered" in process.log()
    assert "Traceback" not in process.log()


def test_health_and_standby(start, eventually, unused_port):
    """Both are those of the other commands."""
    leader = start(*DEFAULT_ONLY, "--standby", "shop")
    port = ("--health-port", str(unused_port))
    second = start(*DEFAULT_ONLY, "--standby", "shop", *port, ready="")
    eventually(lambda: "standby" in probe(unused_port)[1], 60)
    assert probe(unused_port)[0]
    leader.kill()
    eventually(lambda: "took over" in second.log(), 60)


@pytest.fixture
def unused_port():
    """Return a port that is free."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_code_that_changes(start, eventually, tmp_path):
    """With autoreload, the listener starts again; SIGTERM ends it."""
    (tmp_path / "extra.py").write_text("VERSION = 1\n")
    (tmp_path / "with_extra.py").write_text("import extra\nfrom settings import *\n")
    process = start(
        "--channel",
        "orders",
        "--reload",
        path=f"{tmp_path}{os.pathsep}{HERE}",
        DJANGO_SETTINGS_MODULE="with_extra",
    )
    eventually(lambda: Listener.objects.exists())
    (tmp_path / "extra.py").write_text("VERSION = 2  # which is longer\n")
    os.utime(tmp_path / "extra.py", (2_000_000_000, 2_000_000_000))
    eventually(lambda: process.log().count("hearing") >= 2 or time.sleep(0.1), 12)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert "Traceback" not in process.log()


def test_no_connection(transactional_db):
    """One line, and exit code 1."""
    done = subprocess.run(
        [sys.executable, "-m", "django", "pgnotifier", "--no-wait", *DEFAULT_ONLY],
        cwd=HERE,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONPATH": str(HERE),
            "TEST_DJANGO_DSN": "dbname=x host=127.0.0.1 port=1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "can't connect to PostgreSQL" in done.stderr
    assert "Traceback" not in done.stderr


def test_list():
    """Channels, receivers and tasks, as a table and as JSON."""
    out = StringIO()
    call_command("pgnotifier", "--list", stdout=out)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[0] == ["CHANNEL", "DATABASE", "RECEIVERS", "TASKS"]
    assert ["orders", "default", "shop.notifications.take_order", "-"] in lines
    assert ["found", "default", "-", "work,", "work.async"] in lines
    assert ["notes", "second", "shop.notifications.take_note", "-"] in lines
    out = StringIO()
    call_command("pgnotifier", "--list", "--json", "--channel", "found", stdout=out)
    assert json.loads(out.getvalue()) == [
        {
            "database": "default",
            "channel": "found",
            "receivers": [],
            "tasks": ["work", "work.async"],
        }
    ]


def test_dispatch():
    """Tasks go through another dispatcher, for this run."""
    try:
        call_command("pgnotifier", "--list", "--dispatch", "tasks", stdout=StringIO())
        subscriptions = get_notifier("default")._registry.bindings("found")
        names = {type(one.subscription.dispatcher).__name__ for one in subscriptions}
        assert names == {"TaskDispatcher"}
    finally:
        call_command("pgnotifier", "--list", "--dispatch", "inline", stdout=StringIO())


def test_a_dispatcher_that_can_not_be():
    """Whose options are others', say: it is told in a line."""
    channel = Channel("odd")
    channel.task(lambda **_: None, id="odd", expires=60)
    try:
        with pytest.raises(CommandError, match="--dispatch tasks: task 'odd': expires= is not"):
            call_command("pgnotifier", "--list", "--dispatch", "tasks", stdout=StringIO())
    finally:
        get_notifier("default").remove_channel("odd", autorun=False)
        del Channel.known["odd"]
        call_command("pgnotifier", "--list", "--dispatch", "inline", stdout=StringIO())


def test_an_unknown_channel():
    """It is told, with the nearest."""
    with pytest.raises(CommandError, match=r"no subscription on channel 'order' \(did you mean"):
        call_command("pgnotifier", "--noreload", "--channel", "order")
