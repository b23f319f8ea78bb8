"""`SupervisedProcess` and its supervisor."""

import os
import signal
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from pgnotifier.testing import ServerError, supervisor
from pgnotifier.testing.process import SupervisedProcess, choose_base

STEPS = ((signal.SIGKILL, 5.0),)


@pytest.fixture
def process():
    process = SupervisedProcess(steps=STEPS, unprivileged=False)
    yield process
    process.close()


def test_a_failing_command_reports_its_output(process):
    """If a command fails, the error shows its exit code and its output."""
    with pytest.raises(ServerError, match=r"(?s)code 3.*it says"):
        process.run(["/bin/sh", "-c", "echo it says; exit 3"])


def test_a_command_that_is_not_there_reports_so(process):
    """If a command doesn't exist, an error is raised, and the supervisor keeps running."""
    with pytest.raises(ServerError, match="No such file"):
        process.run(["/nonexistent"])
    process.run(["/bin/true"])


def test_a_command_that_hangs_is_ended(process):
    """A command that takes too long is killed and reported."""
    with pytest.raises(ServerError, match="timed out"):
        process.run(["/bin/sleep", "60"], seconds=0.1)


def test_a_server_that_ignores_a_signal_gets_the_next(process):
    """`stop` sends each signal in turn until the server ends."""
    process.spawn(["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
    wait_until(lambda: "ready" in process.log())
    process.stop(((signal.SIGTERM, 0.1), (signal.SIGKILL, 5.0)))
    assert process.pid is None


def test_a_signal_to_the_supervisor_clears_up(process):
    """A supervisor that receives SIGTERM ends the server and deletes the directory."""
    process.spawn(["/bin/sleep", "60"])
    pid = process.pid
    process._supervisor.terminate()
    wait_until(lambda: not process.directory.exists())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ServerError, match="supervisor"):
        _ = process.pid


def test_the_server_dies_with_a_killed_supervisor(process):
    """If the supervisor is killed, the server ends, and `close` deletes the directory."""
    process.spawn(["/bin/sleep", "60"])
    pid = process.pid
    process._supervisor.kill()
    wait_until(lambda: not Path(f"/proc/{pid}/exe").exists())
    process.close()
    assert not process.directory.exists()


def test_threads_may_share_it(process):
    """If several threads make requests, each thread gets the replies to its own."""
    process.spawn(["/bin/sleep", "60"])
    pid = process.pid
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.extend(process.pid for _ in range(100)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [pid] * 400


def test_an_unread_reply_is_passed_over(process):
    """A request that was interrupted before its reply doesn't confuse the next one."""
    process._send("state")
    process.run(["/bin/true"])


def test_the_directory_stays_short(monkeypatch):
    """If the path of the temporary directory is too long for a socket, /tmp is used instead."""
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 80)
    assert choose_base(for_others=False) == Path("/tmp")


def test_the_directory_can_be_reached(tmp_path, monkeypatch):
    """A temporary directory that other users can't enter isn't used for their processes."""
    closed = Path(tempfile.mkdtemp(prefix="x", dir="/tmp"))
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(closed))
        assert choose_base(for_others=False) == closed
        assert choose_base(for_others=True) == Path("/tmp")
    finally:
        closed.rmdir()


def test_copies_can_be_read_by_all(tmp_path):
    """A file that every user can read is linked; any other is copied, and made readable."""
    private, public = tmp_path / "private", tmp_path / "public"
    for source in (private, public):
        source.write_text("content")
    private.chmod(0o600)
    public.chmod(0o644)
    for source in (private, public):
        supervisor._copy(source, tmp_path / "to" / source.name)
    assert stat.S_IMODE((tmp_path / "to" / "private").stat().st_mode) == 0o755
    assert (tmp_path / "to" / "private").read_text() == "content"
    assert (tmp_path / "to" / "public").samefile(public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def wait_until(condition, seconds=10.0):
    never = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        never.wait(0.01)
    pytest.fail("waited in vain")
