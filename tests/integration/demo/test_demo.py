"""`pgnotifier demo`, run as users run it: its summary, and that it cleans up."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left in /proc")

RUN = "from pgnotifier.cli import main; main()"
HERE = Path(__file__).parent


class Demo:
    """A running `pgnotifier demo`, with the processes and directories that it has created."""

    def __init__(self, *arguments):
        env = {name: value for name, value in os.environ.items() if not name.startswith("PGNOTIF")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env | {"PYTHONPATH": str(HERE)},
            start_new_session=True,
        )
        self.output = ""
        self.pids = {}
        self.directories = set()

    def read_until(self, text):
        """Read the output up to a line with the text, and record the processes that run by then."""
        for line in self.process.stdout:
            self.output += line
            if text in line:
                break
        else:
            pytest.fail(f"ended without {text!r}:\n{self.output}")
        self.pids = find_family(self.process.pid)
        for pid in self.pids:
            with contextlib.suppress(OSError):
                directory = str(Path(f"/proc/{pid}/cwd").readlink())
                if "/pgn-" in directory:
                    self.directories.add(directory)

    def finish(self):
        """Read the rest of the output, and return the exit code."""
        self.output += self.process.stdout.read()
        return self.process.wait(30)

    def find_left(self):
        """Return the recorded processes and directories that still exist."""
        pids = [pid for pid, started in self.pids.items() if read_stat(pid)[1:] == started]
        return pids + [name for name in self.directories if Path(name).exists()]

    def figures(self):
        """Return the figures of the summary by name: a plain and a durable one each."""
        line = r"^  (\w.+?) {2,}(\S+)(?: ms)? {2,}(\S+)(?: ms)?$"
        found = re.findall(line, self.output, re.MULTILINE)
        return {name: (plain, durable) for name, plain, durable in found}


def read_stat(pid):
    """Return a process's parent and start time, or None for both if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None, None
    return (None, None) if fields[0] == "Z" else (int(fields[1]), fields[19])


def find_family(root):
    """Return a process and all its descendants, with the time at which each one started."""
    stats = {int(p.name): read_stat(p.name) for p in Path("/proc").glob("[0-9]*")}
    family, new = set(), {root}
    while new:
        family |= new
        new = {pid for pid, (parent, _) in stats.items() if parent in new}
    return {pid: (stats[pid][1],) for pid in family if stats[pid][1] is not None}


@pytest.fixture
def start():
    """Yield a function that starts a demo with the given arguments."""
    started = []

    def run(*arguments):
        started.append(Demo(*arguments))
        return started[-1]

    yield run
    for demo in started:
        demo.process.kill()
        demo.process.wait(10)
        demo.process.stdout.close()


def test_everything_is_accounted_for(start):
    """The demo exits with 0, and cleans up: of what is durable, nothing was missed in the cut."""
    demo = start()
    demo.read_until("orders")
    assert len(demo.directories) == 5  # two servers, two workers, the listener
    assert len(demo.pids) >= 15
    assert demo.finish() == 0, demo.output
    assert demo.find_left() == []
    figures = demo.figures()
    assert figures["sent"] == ("88", "84")
    (executed, executed_durable) = figures["executed"]
    (in_gap, in_gap_durable) = figures["inside the reported gap"]
    assert int(executed) + int(in_gap) == 88
    assert int(in_gap) >= 1
    assert (executed_durable, in_gap_durable) == ("84", "0")
    assert all(int(one) >= 4 for one in figures["sent while cut off"])
    assert figures["unexplained"] == figures["executed twice"] == ("0", "0")
    for median, p99 in zip(figures["median latency"], figures["p99 latency"], strict=True):
        assert 0 < float(median) <= float(p99)
    assert re.search(
        rf"^{in_gap} plain notifications? missed, .* none\.$", demo.output, re.MULTILINE
    )
    for expected in (
        '"WARNING: Something really bad happened"',
        '{"topic": "abc", "data": "some data", "something": "else"}',
        '{"topic": "xyz", "notice": "update", "data": [2, "stuff"]}',
        "[1, 2, 3, 4, 5]",
        "ran on alpha",
        "ran on beta",
        "terminated the listener's database sessions",
        "the listener is listening again",
    ):
        assert expected in demo.output
    assert "\x1b" not in demo.output


@pytest.mark.gate  # what is found out is tested in test_demo_accounting.py
def test_a_loss_is_found_out(start):
    """The demo exits with 1, and names what is lost, plain or durable, and what runs twice.

    That happens well before the cut, because the gap may begin a second before it.
    """
    demo = start("--app", "losing_app", "--orders", "30")
    assert demo.finish() == 1, demo.output
    figures = demo.figures()
    assert (figures["unexplained"], figures["executed twice"]) == (("1", "1"), ("1", "0"))
    assert re.search(r"paid +.*\"id\":3,.*UNEXPLAINED", demo.output)
    assert "durable, but missing: 1;" in demo.output
    assert re.search(r"WARNING.*UNEXPLAINED", demo.output)
    assert re.search(r"\[1,2,3,4,5\].*TWICE", demo.output)


@pytest.mark.parametrize(
    "moment", ["beta: starting", pytest.param("orders", marks=[pytest.mark.gate])]
)
def test_sigkill_leaves_nothing(start, eventually, moment):
    """If the demo is killed, none of its processes and directories is left."""
    demo = start()
    demo.read_until(moment)
    demo.process.kill()
    demo.process.wait(10)
    eventually(lambda: not demo.find_left())


def test_ctrl_c_while_starting(start, eventually):
    """Ctrl-C while the workers start ends the demo without a traceback, and it cleans up."""
    demo = start()
    demo.read_until("beta: starting")
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.finish() == 130
    assert "Traceback" not in demo.output
    eventually(lambda: not demo.find_left())


@pytest.mark.gate  # in the same way as one that fails to start, below
@pytest.mark.alone  # the worker must have got an invoice by then
def test_a_worker_that_dies_is_named(start):
    """If a worker is killed, the demo exits with 1, and quotes that worker's log."""
    demo = start()
    demo.read_until("orders")
    (pid,) = re.findall(r"beta: pid (\d+)", demo.output)
    os.kill(int(pid), signal.SIGKILL)
    assert demo.finish() == 1
    assert "worker beta has ended. Its log ends with:" in demo.output
    assert "pgnotifier.invoice" in demo.output
    assert demo.find_left() == []


def test_an_app_that_fails_to_start_is_quoted(start):
    """If the app can't be imported, the demo exits with 1, and quotes Celery's message."""
    demo = start("--app", "no_such_app")
    assert demo.finish() == 1
    assert "no_such_app" in demo.output
    assert "has ended" in demo.output
