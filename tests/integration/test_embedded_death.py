"""However a process ends, the servers that it started end too, and leave no files."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pgnotifier

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left in /proc")

START_BOTH = """
import json, os, signal, sys, time
from pgnotifier.testing import PostgresServer, ValkeyServer

def tell(*servers):
    print(json.dumps({
        "directories": [str(server._process.directory) for server in servers],
        "pids": [server._process._supervisor.pid for server in servers]
        + [server.pid for server in servers],
        "uid": os.geteuid(),
    }), flush=True)

def main(how):
    postgres, valkey = PostgresServer(tcp=True), ValkeyServer(persistent=True)
    postgres.start(), valkey.start()
    if how == "killed server":
        postgres.kill()
        postgres.start()
        tell(postgres, valkey)
        postgres.kill()
    else:
        if how == "forked" and os.fork() == 0:
            signal.pause()
        tell(postgres, valkey)
    if how != "exit":
        signal.pause()

main(sys.argv[1])
"""

KILL_WHILE_STARTING = """
import json, os, signal
from pgnotifier.testing import PostgresServer
from pgnotifier.testing.process import SupervisedProcess

class Doomed(SupervisedProcess):
    def run(self, argv, **options):
        print(json.dumps({
            "directories": [str(self.directory)],
            "pids": [self._supervisor.pid],
        }), flush=True)
        self._send("run", argv=argv, env={}, seconds=60)
        os.kill(os.getpid(), signal.SIGKILL)

import pgnotifier.testing.postgres
pgnotifier.testing.postgres.SupervisedProcess = Doomed
PostgresServer().start()
"""


@pytest.mark.parametrize("how", ["process", "group", "forked", "killed server", "exit"])
def test_nothing_outlives_the_process(how):
    """After a process is killed or exits, no server, supervisor, directory or segment is left."""
    with start_python(sys.executable, START_BOTH, how) as process:
        left = json.loads(process.stdout.readline())
        assert all(Path(directory).is_dir() for directory in left["directories"])
        end(process, how)
        expect_nothing(left)


def test_nothing_outlives_a_start_cut_short():
    """If a process is killed while initdb runs, nothing is left either."""
    with start_python(sys.executable, KILL_WHILE_STARTING) as process:
        left = json.loads(process.stdout.readline())
        expect_nothing(left)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_nothing_outlives_the_process_of_an_ordinary_user():
    """The servers of a user other than root also end with the process, and leave nothing."""
    nobody = pwd.getpwnam("nobody")
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with start_python(find_python_for(user), START_BOTH, "process", **user) as process:
        left = json.loads(process.stdout.readline())
        assert left["uid"] == nobody.pw_uid
        end(process, "process")
        expect_nothing(left)


@contextlib.contextmanager
def start_python(python, code, *arguments, **options):
    process = subprocess.Popen(
        [python, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=make_env(),
        start_new_session=True,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also the child that it may have forked


def make_env():
    env = {name: value for name, value in os.environ.items() if not name.startswith("PGNOTIFIER")}
    path = [str(Path(pgnotifier.__file__).parents[1]), *filter(None, sys.path)]
    return env | {"PYTHONPATH": os.pathsep.join(path)}


def find_python_for(user):
    """Return a Python that `user` can run, and that can import what this Python can."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(name, path=os.defpath)):
        with contextlib.suppress(OSError, TypeError):
            done = subprocess.run(
                [python, "-c", "import pgnotifier.testing"],
                env=make_env(),
                cwd="/",
                check=False,
                **user,
            )
            if done.returncode == 0:
                return python
    pytest.skip("no Python here that an ordinary user could run")


def end(process, how):
    if how == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif how != "exit":
        process.kill()


def expect_nothing(left):
    never = threading.Event()
    for _ in range(1500):
        if not (remains := list(find_remains(left))):
            return
        never.wait(0.01)
    pytest.fail(f"still there: {remains}")


def find_remains(left):
    yield from (directory for directory in left["directories"] if Path(directory).exists())
    yield from (pid for pid in left["pids"] if is_running(pid))
    # PostgreSQL's backends and helpers have its data directory as their working directory.
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(tuple(left["directories"])):
                yield entry
    for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
        if (creator := int(line.split()[4])) in left["pids"]:
            yield f"memory segment of {creator}"


def is_running(pid):
    try:
        # A zombie doesn't count: in a container, the parent may not reap its children.
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
