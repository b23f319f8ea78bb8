"""`pgnotifier tail` as a process: in a terminal, in a pipe, and with a server that goes away."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import Terminal

from pgnotifier._connection.parameters import Parameters
from pgnotifier._inquiry.asking import ask

DOCS = Path(__file__).parents[2] / "docs" / "commands.md"
COMMAND = (sys.executable, "-m", "pgnotifier")


@pytest.fixture
def in_terminal(pgnotifier_dsn, eventually):
    """Yield a function that runs `tail` in a terminal, until it listens."""
    made = []

    def run(*arguments):
        made.append(Terminal(*COMMAND, "tail", *arguments, "--dsn", pgnotifier_dsn))
        eventually(lambda: "0 received" in made[-1].text)
        return made[-1]

    yield run
    for one in made:
        one.close()


@pytest.fixture
def in_pipe(pgnotifier_dsn):
    """Yield a function that runs `tail` with pipes, until it listens."""
    made = []

    def run(*arguments, dsn=pgnotifier_dsn):
        made.append(
            subprocess.Popen(
                [*COMMAND, "tail", *arguments, "--dsn", dsn],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        assert made[-1].stderr.readline().startswith("listening to ")
        return made[-1]

    yield run
    for one in made:
        one.kill()
        one.wait()
        one.stdout.close()
        one.stderr.close()


def test_a_terminal(in_terminal, db, eventually):
    """It shows colours by type, a last line with the rate, and no escapes of a payload."""
    terminal = in_terminal("orders")
    db.notify("orders", '{"id": 7, "note": "\x1b]0;owned\x07"}')
    eventually(lambda: "1 received" in terminal.text)
    first, *_, last = terminal.text.splitlines()
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3}  orders +\d+  \{'id': 7, 'note': '\\x1b", first)
    assert "orders  1 received" in last
    assert b"\x1b]0;" not in terminal.raw
    assert terminal.screen.title == ""
    assert terminal.screen.buffer[0][terminal.text.index("7,")].fg == "blue"
    db.terminate()
    eventually(lambda: "connected again" in " ".join(terminal.text.split()))
    os.write(terminal.fd, b"\x03")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(60) == 130
    eventually(lambda: "1 notification in" in terminal.text)


def test_a_flood_in_a_terminal(in_terminal, db, eventually):
    """What is too fast to show is counted."""
    terminal = in_terminal("orders")
    db.execute("SELECT pg_notify('orders', n::text) FROM generate_series(1, 20000) AS n")
    eventually(lambda: "20,000 received" in terminal.text)
    eventually(lambda: "more, too fast to show" in terminal.text)


def test_an_output_that_is_stopped_holds_nothing_up(in_pipe, db, eventually):
    """The server's queue is read all the same; what was dropped is counted in lines of its own."""
    process = in_pipe("orders")
    for _ in range(3):
        db.execute("SELECT pg_notify('orders', n::text) FROM generate_series(1, 15000) AS n")
    eventually(lambda: db.execute("SELECT pg_notification_queue_usage()") == [(0,)])
    shown = dropped = 0
    while shown + dropped < 45_000:
        line = process.stdout.readline()
        if line.startswith("-- "):
            dropped += int(
                re.search("([0-9,]+) notifications? dropped between", line)[1].replace(",", "")
            )
        else:
            shown += 1
    assert shown + dropped == 45_000
    assert dropped > 0
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_a_process_that_is_stopped(in_pipe, db, eventually):
    """After Ctrl-Z, the server keeps nothing for it; when it goes on, a line has the gap.

    Meanwhile `status` doesn't take it for a listener: nothing is done about what it shows.
    """
    process = in_pipe("orders")
    assert ask(Parameters(db.dsn)) == []
    process.send_signal(signal.SIGTSTP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    eventually(lambda: not db.listening())
    db.notify("orders", "missed")
    process.send_signal(signal.SIGCONT)
    assert "stopped by Ctrl-Z" in process.stdout.readline()
    db.notify("orders", "seen")
    assert process.stdout.readline().endswith("  'seen'\n")


def test_a_reader_that_ends(in_pipe):
    """As with `| head`, it ends quietly, also while nothing comes."""
    process = in_pipe("orders")
    process.stdout.close()
    assert process.wait(60) == 141
    assert "Error" not in process.stderr.read()


def test_gaps_are_objects(in_pipe, db):
    """In JSON, a lost connection and the gap are objects of their own."""
    process = in_pipe("orders", "--json")
    db.terminate()
    cut, gap = (json.loads(process.stdout.readline()) for _ in range(2))
    assert cut["disconnected"]["why"]
    assert gap["gap"]["channels"] == ["orders"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_the_log_after_a_lost_connection(in_pipe, log):
    """Reading goes on from where it was: nothing is missing, and nothing comes twice."""
    log.publish("orders", "a")
    process = in_pipe("orders", "--since", "oldest")
    assert process.stdout.readline().endswith("  'a'\n")
    log.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    log.publish("orders", "b")
    lines = [process.stdout.readline() for _ in range(3)]
    assert "connection lost" in lines[0]
    assert "nothing is missing" in lines[1]
    assert lines[2].endswith("  'b'\n")


def test_the_examples(db, in_pipe):
    """What the documentation shows is what the commands print."""
    text = DOCS.read_text()
    process = in_pipe("orders", "--count", "3")
    sends = re.findall(r"^\$ pgnotifier send orders '(.*)'$", text, re.MULTILINE)
    for payload in sends:
        db.notify("orders", payload)
    shown = re.findall(r"^(20\S+)  orders  (\d+)  (.*)$", text, re.MULTILINE)
    assert len(shown) == len(sends) == 3
    for _, _, payload in shown:
        _, channel, _, found = process.stdout.readline().rstrip("\n").split("  ", 3)
        assert (channel, found) == ("orders", payload)
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("tail", "orders", "--for", "0.1s"), "0 received"),
        (("doctor",), "ok       round trip"),
        (("send", "orders", "--file", "two.txt"), "sent 2 notifications"),
    ],
)
def test_without_rich(monkeypatch, tmp_path, pgnotifier_dsn, eventually, arguments, shown):
    """In a terminal, commands work without rich, as extras such as `celery` don't install it."""
    (tmp_path / "rich").mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')"
    (tmp_path / "rich" / "__init__.py").write_text(missing)
    (tmp_path / "two.txt").write_text("1\n2\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    one = Terminal(*COMMAND, *arguments, "--dsn", pgnotifier_dsn)
    try:
        assert one.process.wait(60) == 0, one.text
        eventually(lambda: shown in one.raw.decode())
    finally:
        one.process.kill()
        one.process.wait()
        os.close(one.fd)
