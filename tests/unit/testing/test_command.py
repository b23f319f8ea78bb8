"""`Command`: it finds a program, waits until it is ready, and ends it."""

import os
import sys
import time

import pytest

from pgnotifier.testing import Command, ServerError

TALK = "import os, time; print('in', os.getcwd(), os.environ['WHO'], flush=True); time.sleep(60)"


def is_alive(pid):
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_runs_while_the_block_does(tmp_path):
    """A command is ready when the block begins; its process and files are gone afterwards."""
    with Command(["python", "-c", TALK], env={"WHO": "me"}, directory=tmp_path, ready="me") as one:
        assert one.log == f"in {tmp_path} me\n"
        pid, directory = one._running.pid, one._running.directory
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not directory.exists()


def test_killing_it(tmp_path):
    """A killed command has ended when `kill` returns; what it wrote can still be read."""
    command = ["python", "-c", f"import signal; signal.signal(15, signal.SIG_IGN); {TALK}"]
    with Command(command, env={"WHO": "me"}, directory=tmp_path, ready="me") as one:
        pid = one._running.pid
        one.kill()
        assert not is_alive(pid)
        one.kill()
        assert "me" in one.log


@pytest.mark.slow
def test_its_program_is_looked_for():
    """A program beside this Python is preferred; if a program doesn't exist, the error names it."""
    with Command("pgnotifier --version", ready="version") as one:
        assert "pgnotifier" in one.log
    with (
        pytest.raises(ServerError, match="no program 'no-such-program'"),
        Command("no-such-program"),
    ):
        pass


def test_an_end_before_it_is_ready_is_shown():
    """If the command ends before it is ready, the error comes at once and shows its output."""
    began = time.monotonic()
    command = Command([sys.executable, "-c", "print('bad luck')"], ready="good")
    with (
        pytest.raises(ServerError, match=r"(?s)has ended, without writing 'good'.*bad luck"),
        command,
    ):
        pass
    assert time.monotonic() - began < 30


def test_taking_too_long_is_shown():
    """If the command isn't ready in time, the error names the text that was awaited."""
    command = Command(["python", "-c", TALK], env={"WHO": "x"}, ready="never", timeout=0.5)
    with pytest.raises(ServerError, match=r"hasn't within 0.5 s, without writing 'never'"), command:
        pass


def test_without_a_block_it_does_not_run():
    """The log of a command that isn't running can't be read, and the error says so."""
    with pytest.raises(ServerError, match="isn't running"):
        _ = Command("python").log
