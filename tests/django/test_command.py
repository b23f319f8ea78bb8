"""`manage.py pgnotifier`, run as a process, or in this process where that is enough."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import waiting
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from pgnotifier.cli.foreground import SAME
from pgnotifier.cli.probing import probe
from pgnotifier.contrib.django import Channel
from pgnotifier.contrib.django.models import Listener
from pgnotifier.contrib.django.notifiers import get_notifier
from shop.models import orders

HERE = Path(__file__).parent


@pytest.fixture
def start(transactional_db, tmp_path, preforked):
    """Yield a function that runs the command on the test's database and waits until it is ready."""
    running = []

    def start(*args, ready="listening", **env):
        log = tmp_path / f"log-{len(running)}"
        log.touch()
        database = connection.settings_dict
        dsn = f"dbname={database['NAME']} user={database['USER']} host={database['HOST']}"
        process = preforked.start(
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
            log=log,
        )
        running.append(process)
        process.log = log.read_text
        waiting.eventually(lambda: ready in log.read_text() or process.poll() is not None, 60)
        assert ready in log.read_text(), log.read_text()
        return process

    yield start
    for process in running:
        process.kill_group()  # the autoreloader has a child
        process.wait(60)


DEFAULT_ONLY = ("--channel", "orders", "--noreload")  # other tests use the second database


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends(start, eventually, number):
    """On SIGTERM or SIGINT the listener drains, marks its row as stopped and exits with 0."""
    process = start(*DEFAULT_ONLY)
    orders.notify(1)
    orders.notify(2)
    eventually(lambda: Listener.objects.filter(received__gte=2).exists())
    (row,) = Listener.objects.all()
    assert (row.database, row.state) == ("default", "listening")
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
    """A standby reports its health on the given host and port, and takes over from the leader."""
    leader = start(*DEFAULT_ONLY, "--standby", "shop")
    where = ("--health-port", str(unused_port), "--health-host", "127.0.0.2")
    second = start(*DEFAULT_ONLY, "--standby", "shop", *where, ready="")
    eventually(lambda: "standby" in probe(unused_port, host="127.0.0.2")[1], 60)
    assert probe(unused_port, host="127.0.0.2")[0]
    assert not probe(unused_port)[0]
    leader.kill()
    eventually(lambda: "took over" in second.log(), 60)


@pytest.fixture
def unused_port():
    """Return a port that is free."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SLOW = """
import os, time
from pathlib import Path
from shop.models import orders

@orders.connect
def take(payload, **_):
    with (Path(__file__).parent / "taken").open("a") as file:
        file.write(f"begun {payload} {os.getpid()}\\n")
    while payload == "slow" and not (Path(__file__).parent / "go").exists():
        time.sleep(0.01)
    with (Path(__file__).parent / "taken").open("a") as file:
        file.write(f"done {payload}\\n")
"""


@pytest.fixture
def reloading(start, tmp_path, eventually):
    """Return a listener that runs with `--reload`; its receiver blocks until `go_on` is called."""
    (tmp_path / "extra.py").write_text("VERSION = 1\n")
    app = tmp_path / "slow"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "notifications.py").write_text(SLOW)
    (tmp_path / "with_extra.py").write_text(
        "import extra\nfrom settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'slow']\n"
    )
    process = start(
        "--channel",
        "orders",
        "--reload",
        path=f"{tmp_path}{os.pathsep}{HERE}",
        DJANGO_SETTINGS_MODULE="with_extra",
    )
    orders.notify("slow")
    orders.notify("second")
    process.taken = app / "taken"
    eventually(lambda: process.taken.exists() and "begun slow" in process.taken.read_text())
    eventually(lambda: Listener.objects.filter(received__gte=2).exists())
    process.go_on = (app / "go").touch
    process.listener = int(process.taken.read_text().split()[2])
    assert process.listener != process.pid
    return process


def check_drained(process):
    """Assert that everything received was delivered once, and that the listener has ended."""
    taken = process.taken.read_text().splitlines()
    assert [line.rsplit(" ", 1)[0] if "begun" in line else line for line in taken] == [
        "begun slow", "done slow", "begun second", "done second"
    ]  # fmt: skip
    assert "everything received was delivered" in process.log()
    assert "Traceback" not in process.log()
    with pytest.raises(ProcessLookupError):
        os.kill(process.listener, 0)


@pytest.mark.parametrize(
    ("number", "to_all"),
    [
        (signal.SIGTERM, False),
        (signal.SIGINT, True),  # Ctrl-C, which the terminal sends to both processes
        (signal.SIGTERM, True),
    ],
)
def test_a_signal_to_the_reloader(reloading, eventually, number, to_all):
    """On a signal, the listener drains, and both processes end with exit code 0."""
    if to_all:
        os.killpg(reloading.pid, number)
    else:
        reloading.send_signal(number)
    eventually(lambda: "delivering what was received" in reloading.log())
    assert reloading.poll() is None
    reloading.go_on()
    assert reloading.wait(30) == 0
    check_drained(reloading)


def test_a_second_signal_to_the_reloader(reloading, eventually):
    """A second signal ends both processes at once, with exit code 1."""
    reloading.send_signal(signal.SIGTERM)
    eventually(lambda: "delivering what was received" in reloading.log())
    first = time.monotonic()
    eventually(lambda: time.monotonic() > first + SAME)  # an earlier signal counts as the same one
    reloading.send_signal(signal.SIGTERM)
    assert reloading.wait(30) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(reloading.listener, 0)


def test_the_same_signal_twice(reloading):
    """A signal to the process and to its group, as sent by `timeout`, counts once."""
    reloading.send_signal(signal.SIGTERM)
    os.killpg(reloading.pid, signal.SIGTERM)
    reloading.go_on()
    assert reloading.wait(30) == 0
    check_drained(reloading)


def test_a_reloader_that_is_killed(reloading, eventually):
    """If the reloader is killed, its child drains and ends."""
    reloading.kill()
    eventually(lambda: "delivering what was received" in reloading.log())
    reloading.go_on()

    def is_gone():
        try:
            os.kill(reloading.listener, 0)
        except ProcessLookupError:
            return True
        return "State:\tZ" in Path(f"/proc/{reloading.listener}/status").read_text()

    eventually(is_gone)
    assert "everything received was delivered" in reloading.log()


def test_code_that_changes(reloading, eventually, tmp_path):
    """When code changes, the listener drains and restarts; SIGTERM ends the new one."""
    times = itertools.count(2_000_000_000)

    def has_noticed():
        # Django doesn't notice changes from before it has first looked at the file.
        os.utime(tmp_path / "extra.py", (next(times),) * 2)
        return "delivering what was received" in reloading.log()

    eventually(has_noticed)
    reloading.go_on()
    eventually(lambda: reloading.log().count("listening") >= 2, 60)
    check_drained(reloading)
    reloading.send_signal(signal.SIGTERM)
    assert reloading.wait(30) == 0


def test_no_connection(transactional_db):
    """With `--no-wait` and no server, the command exits with 1, without a traceback."""
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


def test_a_server_that_is_down(start):
    """While the listener can't connect, failing to report to the admin isn't a warning."""
    process = start(
        *(*DEFAULT_ONLY, "--verbosity", "2"),
        ready="DEBUG   can't report this listener to the admin",
        TEST_DJANGO_DSN="dbname=x host=127.0.0.1 port=1",
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "WARNING can't report this listener to the admin" not in process.log()


def test_list():
    """`--list` shows channels, databases, receivers and tasks, as a table and as JSON."""
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


def test_list_of_durable_channels():
    """`--list` shows how each subscription of a durable channel reads the log."""
    channel = Channel("listed", durable=True)
    channel.connect(take := lambda **_: None)
    channel.task(lambda **_: None, id="bill", start="oldest", max_attempts=3, on_failure="stop")
    read = {"start": "now", "max_attempts": 5, "on_failure": "dead_letter"}
    try:
        out = StringIO()
        call_command("pgnotifier", "--list", stdout=out)
        heading, *lines = out.getvalue().splitlines()
        assert heading.split()[-1] == "DURABLE"
        (line,) = [one for one in lines if one.startswith("listed")]
        assert line.endswith(
            "receivers: start=now max_attempts=5 on_failure=dead_letter, "
            "bill: start=oldest max_attempts=3 on_failure=stop"
        )
        out = StringIO()
        call_command("pgnotifier", "--list", "--json", "--channel", "listed", stdout=out)
        (row,) = json.loads(out.getvalue())
        assert row["durable"] == {
            "receivers": read,
            "bill": {"start": "oldest", "max_attempts": 3, "on_failure": "stop"},
        }
    finally:
        channel.disconnect(take)
        get_notifier("default").unsubscribe("bill", "listed", autorun=False)
        channel._kept.discard(channel)
        del Channel.known[channel.name]


def test_dispatch():
    """`--dispatch` replaces the dispatcher of tasks for this run."""
    try:
        call_command("pgnotifier", "--list", "--dispatch", "tasks", stdout=StringIO())
        subscriptions = get_notifier("default")._lifecycle.registrar.registry.bindings("found")
        names = {type(one.subscription.dispatcher).__name__ for one in subscriptions}
        assert names == {"TaskDispatcher"}
    finally:
        call_command("pgnotifier", "--list", "--dispatch", "inline", stdout=StringIO())


def test_a_dispatcher_that_can_not_be():
    """`--dispatch` fails if the dispatcher refuses a task's options, and names the task."""
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
    """An unknown channel is an error that suggests the channel with the closest name."""
    with pytest.raises(CommandError, match=r"no subscription on channel 'order' \(did you mean"):
        call_command("pgnotifier", "--noreload", "--channel", "order")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--health-port", "0"),
        ("--health-port", "65536"),
        ("--health-port", "http"),
        ("--drain-timeout", "-1"),
        ("--drain-timeout", "nan"),
    ],
)
def test_values_that_can_not_be(option, value):
    """An invalid value is an error that names the option."""
    with pytest.raises(CommandError, match=option):
        call_command("pgnotifier", "--noreload", f"{option}={value}")


def test_a_hook_that_can_not_be_called(settings):
    """The command doesn't start if `ON_GAP` isn't callable, even without checks."""
    settings.PGNOTIFIER = {**settings.PGNOTIFIER, "ON_GAP": "shop.models.models"}
    with pytest.raises(
        CommandError, match=r"PGNOTIFIER\['ON_GAP'\] must be a callable or the path of one"
    ):
        call_command("pgnotifier", "--noreload", skip_checks=True)


def test_a_console_on_a_port_that_is_taken(db, monkeypatch):
    """A console that can't be served is an error of one line, and nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("PGNOTIFIER_CONSOLE_PORT", str(taken.getsockname()[1]))
        with pytest.raises(CommandError, match="the console can't be opened on"):
            call_command("pgnotifier", console=True)


def test_a_console_that_is_not_installed(db, monkeypatch):
    """Without the extra, the error says what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "pgnotifier.console.serving", raising=False)
    with pytest.raises(CommandError, match=r"pip install 'pgnotifier\[console\]'"):
        call_command("pgnotifier", console=True)
