"""The command `celery -A shop pgnotifier`."""

import json
import secrets
import signal
import socket
import subprocess
import sys
import time

import psycopg
import pytest
from psycopg import conninfo

from pgnotifier.cli.foreground import SAME
from pgnotifier.cli.probing import probe
from pgnotifier.testing import PostgresServer

SOURCE = """
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))

for channel in ("orders", "images"):
    notifier.subscribe("id", channel, lambda *args: write("tasks", *args[:3]))

@notifier.on("images", id="here", dispatcher=InlineDispatcher())
def inline(id, channel, payload, pid):
    write("inline", os.getpid(), payload)
    if payload == "hang":
        book.blpop([os.environ["QUEUE"] + ":go"])
"""

NO_NOTIFIER = "other = Notifier(os.environ['DSN'])"

NO_CHANNEL = "notifier = Notifier(os.environ['DSN'], dispatcher=CeleryDispatcher(app))"

TAKEN = """
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))
notifier.subscribe("id", "orders", print)

@app.task(name="pgnotifier.id")
def foreign():
    pass
"""

SLOW = """
import threading
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))

@notifier.on("orders", dispatcher=InlineDispatcher())
def slow(id, channel, payload, pid):
    write("begun", payload)
    book.blpop([os.environ["QUEUE"] + ":go"])
    write("done", payload)
"""


def test_it_shows_in_celerys_help():
    """`celery --help` lists the command pgnotifier, which has a help text of its own."""
    celery = [sys.executable, "-m", "celery"]
    listed = subprocess.run([*celery, "--help"], capture_output=True, text=True, check=True)
    assert "pgnotifier  Listen to PostgreSQL and enqueue a task" in listed.stdout
    shown = subprocess.run(
        [*celery, "pgnotifier", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for text in (
        "--channel",
        "--drain-timeout",
        "--loglevel",
        "--logfile",
        "Exit codes",
        "$ celery",
    ):
        assert text in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends(open_shop, number):
    """After a signal, the listener enqueues what it has received, and exits with 0."""
    shop = open_shop(SOURCE)
    listener = shop.listener()
    assert listener.log.count("listening 2 channels") == 1
    shop.notify(("images", "hang"), *(("orders", str(n)) for n in range(1000)), ("images", "-1"))
    shop.wait_written("inline", 1)  # all were received, in one transaction; not all are enqueued
    listener.signal(number)
    assert shop.redis.llen(shop.queue) < 1002
    shop.redis.rpush(f"{shop.queue}:go", 1)
    assert listener.wait() == 0
    assert shop.redis.llen(shop.queue) == 1002
    assert "Traceback" not in listener.log
    assert shop.sessions() == 0


def test_health(open_shop, free_port):
    """`--health-port` reports the health of all notifiers, and is closed when they stop."""
    shop = open_shop(SOURCE)
    listener = shop.listener("--health-port", str(free_port), "--health-host", "127.0.0.2")
    assert probe(free_port)[0] is False
    assert probe(free_port, host="127.0.0.2")[:3] == (True, ["listening"], [])
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
    assert probe(free_port, host="127.0.0.2")[0] is False


def test_inline_and_celery_share_a_channel(open_shop):
    """A channel's inline callback runs in the listener, and its Celery callback in a worker."""
    shop = open_shop(SOURCE)
    listener = shop.listener()
    shop.notify(("images", "1"), ("images", "2"))
    written = shop.wait_written("inline", 2)
    assert written == [(listener.process.pid, 1), (listener.process.pid, 2)]
    shop.worker()
    assert shop.wait_written("tasks", 2) == [("id", "images", 1), ("id", "images", 2)]


def test_some_channels_only(open_shop, eventually):
    """`--channel` leaves out all other channels; a channel without a subscription is an error."""
    shop = open_shop(SOURCE)
    listener = shop.listener("-c", "orders")
    assert "listening 1 channel" in listener.log
    shop.notify(("images", "1"), ("orders", "2"))
    eventually(lambda: shop.redis.llen(shop.queue))
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
    assert shop.redis.llen(shop.queue) == 1
    assert not shop.written("inline")
    refused = shop.celery("pgnotifier", "--channel", "image", "-c", "orders")
    assert refused.wait() == 2
    assert "no subscription on channel 'image' (did you mean 'images'?)" in refused.log
    assert "the channels are 'images', 'orders'" in refused.log


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (NO_NOTIFIER, "notifier = CeleryNotifier("),
        (NO_CHANNEL, 'notifier.subscribe("resize"'),
        (TAKEN, "the app has another task of that name"),
    ],
    ids=["no notifier", "no channel", "taken name"],
)
def test_why_it_cannot_listen(open_shop, source, hint):
    """`celery pgnotifier` shows what is wrong and how to fix it, and exits with 2."""
    shop = open_shop(source)
    refused = shop.celery("pgnotifier")
    assert refused.wait() == 2
    assert hint in refused.log


def test_no_connection_is_one_line(open_shop, pgnotifier_dsn):
    """With `--no-wait` a failed connection is one line without the password; the exit code is 1."""
    wrong = conninfo.make_conninfo(pgnotifier_dsn, dbname="nowhere", password="sesame")
    refused = open_shop(SOURCE, dsn=wrong).celery("pgnotifier", "--no-wait")
    assert refused.wait() == 1
    (line,) = [line for line in refused.log.splitlines() if line]
    assert line.startswith("Error: can't connect to PostgreSQL")
    assert 'database "nowhere" does not exist' in line
    assert "sesame" not in line


def test_a_wrong_password_is_not_shown(open_shop):
    """If PostgreSQL refuses the password, its reason is shown, and the password isn't."""
    with PostgresServer(tcp=True) as server:
        if server.is_external:
            pytest.skip("needs a server that asks for a password")
        wrong = conninfo.make_conninfo(server.dsn, host="127.0.0.1", password="sesame")
        refused = open_shop(SOURCE, dsn=wrong).celery("pgnotifier", "--no-wait")
        assert refused.wait() == 1
    assert "password authentication failed" in refused.log
    assert "sesame" not in refused.log
    assert "Traceback" not in refused.log


def test_a_signal_ends_it_while_it_connects(open_shop):
    """A signal ends the listener at once while it waits for a server that doesn't answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        port = silent.getsockname()[1]
        listener = open_shop(SOURCE, dsn=f"host=127.0.0.1 port={port}").celery("pgnotifier")
        connection, _ = silent.accept()
        with connection:
            listener.signal(signal.SIGTERM)
            assert listener.wait(5) == 0
    assert "Traceback" not in listener.log


@pytest.mark.parametrize("args", [(), ("--standby",)])
def test_it_waits_for_postgresql(open_shop, pgnotifier_postgres, free_port, args):
    """While its database doesn't exist, it warns once and answers probes; then it listens."""
    with pgnotifier_postgres.database() as dsn:
        late = f"late_{secrets.token_hex(4)}"
        shop = open_shop(SOURCE, dsn=conninfo.make_conninfo(dsn, dbname=late))
        listener = shop.celery("pgnotifier", "--health-port", str(free_port), *args)
        listener.wait_for("trying to connect: ")
        assert probe(free_port, "/healthz").ok
        health = probe(free_port)
        assert not health.ok
        assert "starting since" in health.trouble[0]
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {late}")
            try:
                listener.wait_for("listening 2 channels")
                listener.signal(signal.SIGTERM)
                assert listener.wait() == 0
            finally:
                admin.execute(f"DROP DATABASE {late} WITH (FORCE)")
    assert listener.log.count("WARNING") == 1
    assert listener.log.count(f'database "{late}" does not exist') == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_waiting(open_shop, number):
    """A signal ends a listener that waits for PostgreSQL at once, with exit code 0."""
    listener = open_shop(SOURCE, dsn="host=127.0.0.1 port=1").celery("pgnotifier")
    listener.wait_for("trying to connect: ")
    listener.signal(number)
    assert listener.wait(10) == 0
    assert "Traceback" not in listener.log


def test_all_notifiers_start_while_one_waits(open_shop):
    """A notifier that waits for its server doesn't keep another one from listening."""
    away = 'Notifier("host=127.0.0.1 port=1", dispatcher=CeleryDispatcher(app, "away."))'
    shop = open_shop(f"away = {away}\naway.subscribe('a', 'away', print)\n{SOURCE}")
    listener = shop.celery("pgnotifier")
    listener.wait_for("listening 2 channels")
    shop.notify(("images", "1"))
    assert shop.wait_written("inline", 1)
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0


WITHOUT_DSN = """
from pgnotifier.contrib.celery import CeleryNotifier
notifier = CeleryNotifier(app)

@notifier.on("orders", id="id")
def resize(id, channel, payload, pid): ...
"""


def test_without_a_dsn(open_shop):
    """Without a DSN, commands that listen exit with 2; workers and `--list` don't need one."""
    shop = open_shop(WITHOUT_DSN)
    for args in (("pgnotifier",), ("pgnotifier", "--no-wait"), ("worker", "--pgnotifier")):
        refused = shop.celery(*args)
        assert refused.wait() == 2, refused.log
        assert "the setting pgnotifier_dsn is missing" in " ".join(refused.log.split())
        assert "Traceback" not in refused.log
    listed = shop.celery("pgnotifier", "--list", "-l", "ERROR")
    assert listed.wait() == 0
    assert "pgnotifier.id" in listed.log
    shop.worker()
    inspected = shop.celery("inspect", "registered", "--timeout", "5")
    assert inspected.wait() == 0
    assert "pgnotifier.id" in inspected.log


def test_what_cannot_be_delivered_in_time_is_logged(open_shop):
    """If `--drain-timeout` passes, the undelivered notifications are logged; the exit code is 1."""
    shop = open_shop(SLOW)
    listener = shop.listener("--drain-timeout", "0.3")
    shop.notify(("orders", "1"), ("orders", "2"))
    shop.wait_written("begun", 1)
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 1
    assert "1 notification undelivered" in listener.log


def test_a_second_signal_ends_at_once(open_shop, eventually):
    """A second signal ends the listener at once, although a notification is undelivered."""
    shop = open_shop(SLOW)
    listener = shop.listener()
    shop.notify(("orders", "1"))
    shop.wait_written("begun", 1)
    listener.signal(signal.SIGINT)
    listener.wait_for("SIGINT")
    first = time.monotonic()
    eventually(lambda: time.monotonic() > first + SAME)  # an earlier one counts as the same
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 1
    assert "second signal" in listener.log


def test_where_the_log_goes(open_shop, eventually):
    """The log is written to `--logfile` in the app's format; at WARNING nothing is logged."""
    shop = open_shop(SOURCE + "\napp.conf.worker_log_format = '<%(levelname)s> %(message)s'\n")
    listener = shop.celery("pgnotifier", "-l", "debug", "-f", "listener.log")
    log = shop.directory / "listener.log"
    quiet = shop.celery("pgnotifier", "-l", "WARNING")
    eventually(lambda: log.exists() and "<INFO> listening 2 channels" in log.read_text())
    eventually(lambda: shop.sessions() == 2)
    for running in (listener, quiet):
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert not running.log


LISTED = """
app.conf.task_routes = {"pgnotifier.resize": {"queue": "images"}}
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))

def callback(id, channel, payload, pid): ...

@app.task(name="audit")
def audit(*args): ...

notifier.subscribe("resize", "image_uploaded", callback)
notifier.subscribe(("a", 1), "orders", callback, queue="low")
notifier.subscribe("chain", "orders", chain(audit.s(), audit.s()))
notifier.subscribe("count", "orders", callback, dispatcher=InlineDispatcher())
notifier.add_channel("quiet")
"""


def test_list(open_shop):
    """`--list` prints channels, subscriptions, tasks and queues, and connects to nothing."""
    shop = open_shop(LISTED, dsn="postgresql://127.0.0.1:1/none", broker="redis://127.0.0.1:1/0")
    table = shop.celery("pgnotifier", "--list", "-l", "ERROR")
    assert table.wait() == 0
    rows = [line.split("  ") for line in table.log.splitlines()]
    found = [[cell.strip() for cell in row if cell.strip()] for row in rows if len(row) > 1]
    assert found == [
        ["CHANNEL", "SUBSCRIPTION", "TASK", "QUEUE", "PUBLISHED"],
        ["image_uploaded", "resize", "pgnotifier.resize", "images", "stamped"],
        ["orders", "('a', 1)", "pgnotifier.a.1", "low", "stamped"],
        ["orders", "chain", "audit() | audit()", shop.queue, "apply_async"],
        ["orders", "count", "-", "-", "in process"],
        ["quiet", "-", "-", "-", "-"],
    ]
    assert "audit() | audit() goes through apply_async: it is a canvas" in table.log


def test_list_as_json(open_shop):
    """`--list --json` prints the same as JSON; `--channel` selects channels."""
    shop = open_shop(LISTED)
    listing = shop.celery("pgnotifier", "--list", "--json", "-l", "ERROR", "-c", "image_uploaded")
    assert listing.wait() == 0
    assert json.loads(listing.log) == [
        {
            "id": "resize",
            "channel": "image_uploaded",
            "task": "pgnotifier.resize",
            "queue": "images",
            "path": "stamped",
            "reason": None,
        }
    ]
