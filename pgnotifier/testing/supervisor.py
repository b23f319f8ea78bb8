"""Run one server for a parent process, and clean up when the parent ends, even by SIGKILL.

This is a separate program (`python -I -S supervisor.py PARENT_PID`), which uses only the standard
library. Reasons for a process between the tests and the server:

- It survives a SIGKILL to its parent, or to the parent's whole process group. So it can stop the
  server and delete the directory, which nothing inside the parent could do.
- It has one thread. Linux sends a parent-death signal when the *thread* that forked ends, and
  running Python between fork and exec is unsafe if there are other threads. Here both are safe.

It notices the parent's end by the end of its standard input, immediately and on every platform.
It also checks `getppid`, because children forked by the parent may keep the pipe open.

Protocol: one JSON object per line. A request is `{"id", "do", ...}`, a reply is `{"id", ...}` or
`{"id", "error"}`. Every request ends within a bounded time.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
IPC_RMID = 0
ORPHANS_WAIT = 2.0  # seconds that the children of a server that has ended get before SIGKILL
libc = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    """Owns a directory, and at most one running server."""

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.user: list[int] | None = None
        self.steps: list[list[float]] = [[signal.SIGKILL, 5]]
        self.lock_file: Path | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.reservations: list[socket.socket] = []

    def open(
        self,
        directory: str,
        user: list[int] | None,
        steps: list[list[float]],
        lock_file: str | None,
    ) -> None:
        """Create the directory, which only `user` can access.

        Args:
            directory: Its path; must not exist yet.
            user: Uid and gid for running commands. None: this process's.
            steps: How to stop the server at the end: pairs of a signal and the seconds to wait
                after it, as for `stop`.
            lock_file: The name of a `postmaster.pid` in the directory, which contains the id of
                the server's memory segment.
        """
        path = Path(directory)
        path.mkdir(mode=0o700)
        self.directory, self.user, self.steps = path, user, steps
        self.lock_file = path / lock_file if lock_file else None
        if user:
            os.chown(path, *user)

    def copy(self, pairs: list[list[str]]) -> None:
        """Link or copy files and trees into the directory. Every user can read them."""
        assert self.directory is not None
        for source, target in pairs:
            _copy(Path(source), self.directory / target)

    def reserve(self) -> dict[str, int]:
        """Return a free port of 127.0.0.1 that stays reserved while the server is down.

        A socket that is bound but not listening, with SO_REUSEADDR, reserves it on Linux: a server
        with SO_REUSEADDR can listen on that port, but the kernel doesn't assign it to a client.
        Otherwise, a client that tries to reach the stopped server could be assigned that port
        itself, and connect to itself.
        """
        reservation = socket.socket()
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port: int = reservation.getsockname()[1]
        if LINUX:
            self.reservations.append(reservation)
        else:
            reservation.close()
        return {"port": port}

    def run(self, argv: list[str], env: dict[str, str], seconds: float) -> dict[str, Any]:
        """Run a command to its end, and return its exit code and output."""
        done = subprocess.run(
            argv,
            env=env,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **self._as_child(signal.SIGKILL),
        )
        return {"code": done.returncode, "output": done.stdout.decode(errors="replace")}

    def spawn(
        self, argv: list[str], env: dict[str, str], log: str, cwd: str | None
    ) -> dict[str, int]:
        """Start the server in `cwd`, and append its output to `log` in the directory."""
        assert self.directory is not None
        if self.server is not None:
            assert self.server.poll() is not None, "the server is already running"
            _reap_orphans()  # the last server may have ended by itself
        with (self.directory / log).open("ab") as output:
            self.server = subprocess.Popen[bytes](
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **self._as_child(int(self.steps[0][0]), cwd),
            )
            return {"pid": self.server.pid}

    def state(self) -> dict[str, int | None]:
        """Return the pid of the server, or None if it isn't running."""
        running = self.server is not None and self.server.poll() is None
        return {"pid": self.server.pid if self.server and running else None}

    def stop(self, steps: list[list[float]]) -> None:
        """Send each signal in turn until the server ends, then wait for its children."""
        if self.server is None:
            return
        for number, seconds in steps:
            if self.server.poll() is None:
                self.server.send_signal(int(number))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.server.wait(seconds)
        _reap_orphans()

    def quit(self) -> None:
        """End this process. It cleans up before it exits."""
        sys.exit(0)

    def close(self) -> None:
        """Stop the server, remove its memory segment, and delete the directory."""
        self.stop(self.steps)
        if self.directory is None:
            return
        if self.lock_file is not None:
            _remove_segment(self.lock_file, self.user)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _as_child(self, death_signal: int, cwd: str | None = None) -> dict[str, Any]:
        supervisor = os.getpid()

        def tie() -> None:
            # Runs after the change of user, which would reset the setting.
            libc.prctl(PR_SET_PDEATHSIG, death_signal)
            if os.getppid() != supervisor:  # the supervisor ended before the line above
                os._exit(1)

        child: dict[str, Any] = {"cwd": cwd or self.directory, "preexec_fn": tie if LINUX else None}
        if self.user:
            child |= {"user": self.user[0], "group": self.user[1], "extra_groups": []}
        return child


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True)
        for entry in source.iterdir():
            _copy(entry, target / entry.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(source, target)


def _copy_file(source: Path, target: Path) -> None:
    try:
        # A hard link takes no time and no space, but works only within one file system.
        if source.stat().st_mode & stat.S_IROTH:
            target.hardlink_to(source)
            return
    except OSError:
        pass
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _reap_orphans() -> None:
    # This process is the subreaper: it inherits the children of a server that ended before them.
    # PostgreSQL's sessions end by themselves unless they are busy, but a restart fails while
    # one of them is left.
    started = time.monotonic()
    with contextlib.suppress(ChildProcessError):
        while (waited := time.monotonic() - started) < 2 * ORPHANS_WAIT:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if waited > ORPHANS_WAIT:
                    _kill_children()
                time.sleep(0.005)


def _kill_children() -> None:
    with contextlib.suppress(OSError):
        for pid in Path("/proc/thread-self/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def _remove_segment(lock_file: Path, user: list[int] | None) -> None:
    # Only a postmaster that was killed leaves this file, and with it a System V memory segment,
    # which would remain until the next boot. Line 7 has the segment's id.
    # https://www.postgresql.org/docs/18/kernel-resources.html#SYSVIPC
    try:
        segment = int(lock_file.read_text().splitlines()[6].split()[1])
    except (OSError, LookupError, ValueError):
        return
    # Drop root's rights: the file belongs to `user`, and could name somebody else's segment.
    if user:
        os.seteuid(user[0])
    libc.shmctl(segment, IPC_RMID, None)
    if user:
        os.seteuid(0)


def read_requests(parent: int) -> Iterator[dict[str, Any]]:
    """Yield the requests of process `parent` until it ends."""
    pending = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], 0.5)[0]:
            continue
        if not (chunk := os.read(0, 65536)):
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from map(json.loads, lines)


def answer(supervisor: Supervisor, request: dict[str, Any]) -> None:
    """Execute a request, and write the reply."""
    number = request.pop("id")
    try:
        reply = getattr(supervisor, request.pop("do"))(**request) or {}
    except (OSError, subprocess.SubprocessError) as error:
        reply = {"error": str(error)}
    sys.stdout.write(json.dumps({"id": number, **reply}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve the parent until it ends or a signal comes, then clean up."""
    os.umask(0o022)
    if LINUX:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in ending:
        signal.signal(number, lambda *_: sys.exit(1))
    supervisor = Supervisor()
    try:
        with contextlib.suppress(BrokenPipeError):
            for request in read_requests(int(sys.argv[1])):
                answer(supervisor, request)
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_IGN)
        supervisor.close()


if __name__ == "__main__":
    main()
