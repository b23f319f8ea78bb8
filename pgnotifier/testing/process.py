"""Start a supervisor process, and send it requests to start, stop and clean up a server."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnotifier.testing.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Steps = tuple[tuple[int, float], ...]  # a signal, and the seconds to wait after it

SUPERVISOR = Path(__file__).with_name("supervisor.py")

# On macOS, the path of a unix socket has to fit in 104 bytes, with "/.s.PGSQL.65535" at its end.
MAX_DIRECTORY = 80


class SupervisedProcess:
    """The process and the directory of one server. Both are removed when this process ends.

    `_lock` is held from a request to its reply, so that threads can share the object.
    """

    def __init__(self, *, steps: Steps, unprivileged: bool, lock_file: str | None = None) -> None:
        """Start the supervisor, which creates the directory.

        Args:
            steps: How to stop the server at the end.
            unprivileged: Run commands as `nobody` if this process runs as root.
            lock_file: The name of a `postmaster.pid` in the directory.
        """
        self.user = _find_nobody() if unprivileged and os.geteuid() == 0 else None
        self.directory = choose_base(for_others=self.user is not None) / (
            f"pgn-{secrets.token_hex(4)}"
        )
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._owner = os.getpid()
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(self._owner)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            # So that neither Ctrl-C nor a SIGKILL to the process group reaches it.
            start_new_session=True,
        )
        try:
            self._ask(
                "open",
                directory=str(self.directory),
                user=self.user,
                steps=steps,
                lock_file=lock_file,
            )
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The server's pid while it runs."""
        pid: int | None = self._ask("state")["pid"]
        return pid

    def copy(self, pairs: Iterable[tuple[Path, str]]) -> None:
        """Copy files or trees into the directory, under the names given."""
        self._ask("copy", pairs=[[str(source), target] for source, target in pairs])

    def reserve_port(self) -> int:
        """Return a free port of 127.0.0.1. On Linux it stays reserved while the server is down."""
        port: int = self._ask("reserve")["port"]
        return port

    def run(self, argv: Sequence[str], *, seconds: float = 120) -> None:
        """Run a command to its end.

        Raises:
            ServerError: It failed, or took longer than `seconds`. The message has its output.
        """
        done = self._ask("run", argv=list(argv), env=_make_env(), seconds=seconds)
        if done["code"] != 0:
            raise ServerError(f"{argv[0]} failed with code {done['code']}:\n{done['output']}")

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start the server. Its output is appended to its log.

        Args:
            argv: The command.
            env: Environment variables, in addition to this process's without those of libpq.
            cwd: The working directory. Default: the server's directory.
        """
        env = _make_env() | dict(env or {})
        where = None if cwd is None else str(cwd)
        self._ask("spawn", argv=list(argv), env=env, log="server.log", cwd=where)

    def stop(self, steps: Steps) -> None:
        """Send each signal in turn until the server has ended."""
        self._ask("stop", steps=steps)

    def log(self) -> str:
        """Return what the server has written."""
        try:
            return (self.directory / "server.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def is_ours(self) -> bool:
        """Return whether this process started the supervisor, and isn't a fork of that process."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """Stop the server and delete the directory; return when both are done."""
        if not self.is_ours() or self._supervisor.returncode is not None:
            return
        with (
            self._lock,
            contextlib.suppress(BrokenPipeError),
            self._supervisor,  # closes the pipes, and waits
        ):
            # Closing the pipe isn't enough: forked children may keep it open.
            self._send("quit")
        # The supervisor has deleted it, unless it was killed.
        shutil.rmtree(self.directory, ignore_errors=True)

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if not self.is_ours():
            raise ServerError("a server can only be controlled by the process that started it")
        with self._lock:
            try:
                number = self._send(do, **arguments)
                reply = self._receive(number)
            except (BrokenPipeError, ValueError) as error:
                raise ServerError(f"the supervisor of a server has ended ({error})") from error
        if "error" in reply:
            raise ServerError(f"{do} failed for a server in {self.directory}: {reply['error']}")
        return reply

    def _send(self, do: str, **arguments: Any) -> int:
        assert self._supervisor.stdin is not None
        number = next(self._numbers)
        request = json.dumps({"id": number, "do": do, **arguments})
        self._supervisor.stdin.write(request.encode() + b"\n")
        self._supervisor.stdin.flush()
        return number

    def _receive(self, number: int) -> dict[str, Any]:
        assert self._supervisor.stdout is not None
        while True:
            line = self._supervisor.stdout.readline()
            if not line.startswith(b"{"):
                raise ValueError((line + self._supervisor.stdout.read()).decode(errors="replace"))
            reply: dict[str, Any] = json.loads(line)
            # The reply to an earlier request may be unread, if Ctrl-C interrupted that call.
            if reply.pop("id") == number:
                return reply


def choose_base(*, for_others: bool) -> Path:
    """Return the directory for temporary directories: `TMPDIR`, or /tmp if that can't be used.

    Args:
        for_others: Whether other users need access to what is in it.
    """
    base = Path(tempfile.gettempdir()).absolute()
    too_long = len(os.fsencode(base)) + len("/pgn-00000000") > MAX_DIRECTORY
    closed = for_others and not all(
        directory.stat().st_mode & stat.S_IXOTH for directory in (base, *base.parents)
    )
    return Path("/tmp") if too_long or closed else base  # noqa: S108 - the last resort


def _find_nobody() -> tuple[int, int]:
    import pwd  # here, because on Windows the error about the missing wheel should come first

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerError(
            "PostgreSQL refuses to run as root, and this system has no user 'nobody' to run it as"
        ) from None
    return nobody.pw_uid, nobody.pw_gid


def _make_env() -> dict[str, str]:
    # PGDATA, PGPORT and the like would affect the server's programs. With TZ set, initdb doesn't
    # have to compare the system's clock with every time zone.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return env | {"TZ": "UTC", "LC_ALL": "C"}
