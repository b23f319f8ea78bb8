"""`pgnotifier top` as a process in a terminal, with real listeners."""

import os
import re
import signal
import subprocess
import sys
import termios

import psycopg
import pytest
from terminals import Terminal

from pgnotifier._connection.parameters import Parameters
from pgnotifier._inquiry.asking import ask
from pgnotifier._inquiry.messages import Order
from pgnotifier.cli.top.watching import Look, Watcher

COMMAND = (sys.executable, "-m", "pgnotifier", "top")


@pytest.fixture
def in_terminal(pgnotifier_dsn):
    """Yield a function that runs `top` in a terminal."""
    made = []

    def run(*arguments, dsn=pgnotifier_dsn, **variables):
        made.append(Terminal(*COMMAND, "--dsn", dsn, *arguments, **variables))
        return made[-1]

    yield run
    for one in made:
        one.close()


def listen(make_notifier, dsn, **settings):
    """Start a listener with two channels."""
    notifier = make_notifier(dsn, **settings)
    notifier.subscribe("invoice", "orders", lambda *_: None)
    notifier.subscribe("resize", "images [bold]", lambda *_: None)
    return notifier


def muted(dsn):
    """Return the channels that listeners have muted."""
    reports = ask(Parameters(dsn), 60.0)
    return [each.name for one in reports for each in one.channels if each.muted]


def test_a_terminal(in_terminal, make_notifier, pgnotifier_dsn, db, eventually):
    """It shows the listener and rates, mutes a channel, finds a new connection, and ends by q."""
    notifier = listen(make_notifier, pgnotifier_dsn, remote_commands=True)
    terminal = in_terminal("--interval", "0.25")
    eventually(lambda: re.search(rf" {os.getpid()} +listening", terminal.text))
    terminal.type("2")
    eventually(lambda: "images [bold]" in terminal.text)
    for _ in range(3):
        db.execute("SELECT pg_notify('orders', n::text) FROM generate_series(1, 500) AS n")
    eventually(lambda: re.search(r"orders +\S+/s .* 1,500 +1", terminal.text))
    terminal.type("m")
    eventually(lambda: "Mute channel 'orders' in 1 listener?" in terminal.text)
    terminal.type("y")
    eventually(lambda: "muted channel 'orders' in 1 listener" in terminal.text)
    assert muted(pgnotifier_dsn) == ["orders"]
    db.terminate()
    eventually(lambda: notifier.status().reconnects)
    with psycopg.connect(pgnotifier_dsn) as connection:
        connection.execute("SELECT pg_notify('images [bold]', '')")
    eventually(lambda: re.search(r"images \[bold\] .* 1 +1", terminal.text))
    terminal.type("q")
    assert terminal.process.wait(60) == 0
    assert b"\x1b[?1049l" in terminal.raw  # back from the screen of its own
    assert termios.tcgetattr(terminal.fd)[3] == terminal.settings[3]


def test_without_colors(in_terminal, make_notifier, pgnotifier_dsn, eventually):
    """With NO_COLOR there are shades of grey alone; SIGTERM gives the terminal back."""
    listen(make_notifier, pgnotifier_dsn)
    terminal = in_terminal(NO_COLOR="1")
    eventually(lambda: re.search(rf" {os.getpid()} +listening", terminal.text))
    buffer = terminal.screen.buffer
    colors = {
        color for line in buffer.values() for cell in line.values() for color in (cell.fg, cell.bg)
    }
    shades = {one for one in colors if one != "default"}
    assert {one for one in shades if len({one[:2], one[2:4], one[4:]}) > 1} == set()
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(60) == 143
    assert b"\x1b[?1049l" in terminal.raw


def test_a_server_that_is_down(in_terminal, tmp_path, eventually):
    """That is shown, without the password; Ctrl-C ends it with 130."""
    terminal = in_terminal(dsn=f"host={tmp_path} password=hunter2")
    eventually(lambda: "! not connected" in terminal.text)
    assert b"hunter2" not in terminal.raw
    terminal.type("\x03")
    assert terminal.process.wait(60) == 130


def test_a_terminal_that_is_stopped_and_closed(in_terminal, db, eventually):
    """After Ctrl-Z the server keeps nothing for it; it goes on, and ends with its terminal."""
    terminal = in_terminal()
    eventually(lambda: "nobody listens" in terminal.text)
    terminal.type("\x1a")
    assert os.WIFSTOPPED(os.waitpid(terminal.process.pid, os.WUNTRACED)[1])
    eventually(lambda: not db.listening())
    terminal.process.send_signal(signal.SIGCONT)
    eventually(db.listening)
    terminal.hang_up()
    assert terminal.process.wait(60) != 0


def test_no_terminal(pgnotifier_dsn):
    """Without one, it exits with code 2, and says what to use."""
    done = subprocess.run(
        [*COMMAND, "--dsn", pgnotifier_dsn], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pgnotifier status --watch" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- the watcher alone ---


@pytest.fixture
def watch(pgnotifier_dsn, eventually):
    """Yield a function that starts a watcher, and returns it and what it says."""
    made = []

    def start(**settings):
        watcher, said = Watcher(Parameters(pgnotifier_dsn), **settings), []
        watcher.start(said.append)
        made.append(watcher)
        return watcher, said

    yield start
    for one in made:
        one.stop()


def test_pausing(watch, db, eventually):
    """While it is paused it has no connection; afterwards it asks at once."""
    watcher, said = watch(interval=60.0)
    eventually(lambda: said)
    assert db.listening()
    watcher.pause(wait=True)
    eventually(lambda: not db.listening())
    watcher.resume()
    eventually(lambda: len(said) == 2)
    assert all(one.error is None for one in said)


def test_orders(make_notifier, watch, pgnotifier_dsn, eventually):
    """An order is carried out at once, even while it is paused; a refusal is one line."""
    listen(make_notifier, pgnotifier_dsn)
    watcher, said = watch(interval=60.0)
    eventually(lambda: said)
    (report,) = said[0].survey.reports
    watcher.pause(wait=True)
    watcher.order([Order(report.id, "mute", "orders")], "muted")
    eventually(lambda: len(said) == 3)
    assert said[1].failed
    assert "takes no orders" in said[1].text
    assert isinstance(said[2], Look)
    assert muted(pgnotifier_dsn) == []


def test_a_lost_connection(watch, db, eventually):
    """It is reported, and the next survey has another connection."""
    _, said = watch(interval=0.25)
    eventually(lambda: said)
    db.terminate()
    eventually(lambda: any(one.error for one in said))
    eventually(lambda: said[-1].survey is not None)
