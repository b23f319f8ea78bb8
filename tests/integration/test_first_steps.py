"""The commands of docs/first-steps.md lead to a task, and to the console, as that page says."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager, suppress
from importlib.metadata import metadata
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgnotifier.testing import PostgresServer
from pgnotifier.testing.wheels import find_postgres

BIN = Path(sys.executable).parent
PAGE = Path(__file__).parents[2] / "docs" / "first-steps.md"
MOST = 10
"""The commands that a newcomer needs."""
INSTALLING = [
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install 'pgnotifier[celery,console]'",
    "export PGNOTIFIER_DSN=postgresql://localhost/shop CELERY_BROKER_URL=redis://localhost:6379/0",
]
"""The first commands, in place of which the test has its own environment and servers."""


def steps(heading):
    """Return the commands of a section, each with the lines that the page says it prints."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for language, text in re.findall(
        r"^```(sh|text)\n(.*?)^```", section, re.DOTALL | re.MULTILINE
    ):
        if language == "sh":
            found.append((text.rstrip("\n"), []))
        else:
            found[-1][1].extend(text.splitlines())
    return found


def pattern(line):
    """Return a pattern for a line of output: numbers, names and addresses are others each time."""
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", line)
    line = re.sub(r"\(host=.*\)", "(CONNECTION)", line).replace("@laptop", "@HOST")
    line = re.sub(r"\\?\d+(\\?\.\d+)?", "NUMBER", re.escape(line))
    for name, any_other in (
        ("UUID", r"[0-9a-f-]{36}"),
        ("CONNECTION", ".*"),
        ("HOST", r"\S+"),
        ("NUMBER", r"\d+(?:\.\d+(?:e-\d+)?)?"),
    ):
        line = line.replace(name, any_other)
    return re.compile(f"^{line}$", re.MULTILINE)


class Terminal:
    """A shell that gets one command after another, and shows what it and they print."""

    def __init__(self, directory, env):
        self._path = directory.parent / "output"
        with self._path.open("wb") as output:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=directory,
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                text=True,
            )

    @property
    def shown(self):
        """What was printed so far."""
        return self._path.read_text()

    def type(self, command):
        """Type a command."""
        self._shell.stdin.write(f"{command}\n")
        self._shell.stdin.flush()

    def leave(self):
        """End the shell once it has executed everything, and return the last exit code."""
        self._shell.stdin.close()
        return self._shell.wait(60)

    def close(self):
        """Kill the shell and all that it has started."""
        self._shell.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait(30)


@contextmanager
def own_database():
    """Yield the conninfo string of a database of a server on TCP, for the role that owns it."""
    name, password = f"newcomer_{secrets.token_hex(4)}", "correct horse"
    with PostgresServer(tcp=True) as server, psycopg.connect(server.dsn, autocommit=True) as admin:
        role = sql.Identifier(name)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
        try:
            yield make_conninfo(server.dsn, dbname=name, user=name, password=password)
        finally:
            server.drop_database(name)
            admin.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def terminal(tmp_path, pgnotifier_redis_url):
    """Yield a terminal in an empty directory, where pgnotifier and psql are installed."""
    directory = tmp_path / "empty"
    directory.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    path = [str(BIN), str(find_postgres() / "bin"), env["PATH"]]
    with own_database() as dsn:
        env |= {
            "PATH": os.pathsep.join(path),
            "PGNOTIFIER_DSN": dsn,
            "CELERY_BROKER_URL": pgnotifier_redis_url,
            "PGNOTIFIER_CONSOLE_PORT": "0",  # any that is free
            "TMPDIR": str(tmp_path),
        }
        opened = Terminal(directory, env)
        yield opened
        opened.close()


def looks(address):
    """Yield what the console's page gets, as it comes."""
    at = urlsplit(address)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    try:
        connection.request("GET", "/events")
        answer, event = connection.getresponse(), ""
        while line := answer.readline().decode().rstrip("\n"):
            field, _, value = line.partition(": ")
            if field == "event":
                event = value
            elif field == "data" and event == "look":
                yield json.loads(value)
            if field == "data":
                answer.readline()  # the blank line after each event
    finally:
        connection.close()


def test_ten_commands(terminal, eventually):
    """From an empty directory to a task that was executed, and to its notification in the console.

    The role is an ordinary one that owns its database, on TCP with a password.
    """
    found = steps("The ten commands")
    assert len(found) <= MOST
    assert [command for command, _ in found[:4]] == INSTALLING
    extras = metadata("pgnotifier").get_all("Provides-Extra")
    assert {"celery", "console", "demo"} <= {*extras}
    for command, expected in found[4:]:
        terminal.type(command)
        for line in map(pattern, expected):
            eventually(lambda line=line: line.search(terminal.shown))
    address = re.search(r"the console is at (\S+)", terminal.shown)[1]
    targets = []
    for look in looks(address):
        if not look["listeners"]:  # on a busy machine, it may answer too late
            continue
        (listener,) = look["listeners"]
        # They are sent again only if they have changed.
        targets = [one["target"] for one in listener.get("subscriptions", ())] or targets
        if listener["received"] == 1 and listener["dispatchers"][0]["delivered"] == 1:
            break
    assert listener["state"] == "listening"
    assert [(one["name"], one["received"]) for one in listener["channels"]] == [("orders", 1)]
    assert targets == ["pgnotifier.invoice"]

    expected = []
    for command, lines in steps("Clean up"):
        terminal.type(command)
        expected += lines
    assert terminal.leave() == 0, terminal.shown
    assert all(pattern(line).search(terminal.shown) for line in expected), terminal.shown
    assert "Traceback" not in terminal.shown
    assert "stopped; everything received was delivered" in terminal.shown


def test_without_servers(tmp_path):
    """The page's program starts both servers, says where they are, and ends with Ctrl-C."""
    (program,) = re.findall(r"^   ```python\n(.*?)^   ```", PAGE.read_text(), re.DOTALL | re.M)
    (tmp_path / "servers.py").write_text(textwrap.dedent(program))
    hidden = ("PG", "CELERY_", "XDG_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    servers = subprocess.Popen(
        [sys.executable, "-u", "servers.py"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = servers.stdout.readline()
        asking = 'psql "$PGNOTIFIER_DSN" -Atc "SELECT 6 * 7"; echo "$CELERY_BROKER_URL"'
        done = subprocess.run(
            ["bash", "-c", f"{line}{asking}"], env=env, capture_output=True, text=True, timeout=60
        )
        answer, url = done.stdout.splitlines()
        assert answer == "42", done.stderr
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        servers.send_signal(signal.SIGINT)
        assert servers.communicate(timeout=60) == ("", "")
        assert servers.returncode == 0
    finally:
        servers.kill()
        servers.communicate()
