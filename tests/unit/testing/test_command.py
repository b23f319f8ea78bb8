"""Commands beside a test: found, awaited, ended."""

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
    """It is ready when the block begins, in its directory, and gone when the block has ended."""
    with Command(["python", "-c", TALK], env={"WHO": "me"}, directory=tmp_path, ready="me") as one:
        assert one.log == f"in {tmp_path} me\n"
        pid, directory = one._running.pid, one._running.directory
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not directory.exists()


def test_its_program_is_looked_for():
    """Beside this Python first; a program that isn't there is told."""
    with Command("pgnotifier --version", ready="version") as one:
        assert "pgnotifier" in one.log
    with (
        pytest.raises(ServerError, match="no program 'no-such-program'"),
        Command("no-such-program"),
    ):
        pass


def test_an_end_before_it_is_ready_is_told():
    """With what it wrote, and at once."""
    began = time.monotonic()
    command = Command([sys.executable, "-c", "print('bad luck')"], ready="good")
    with (
        pytest.raises(ServerError, match=r"(?s)has ended, without writing 'good'.*bad luck"),
        command,
    ):
        pass
    assert time.monotonic() - began < 30


def test_taking_too_long_is_told():
    """With what it was waited for."""
    command = Command(["python", "-c", TALK], env={"WHO": "x"}, ready="never", timeout=0.5)
    with pytest.raises(ServerError, match=r"hasn't within 0.5 s, without writing 'never'"), command:
        pass


def test_without_a_block_it_does_not_run():
    """And says so."""
    with pytest.raises(ServerError, match="isn't running"):
        _ = Command("python").log
