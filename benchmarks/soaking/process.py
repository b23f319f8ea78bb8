"""Start the process under test, send it commands, and record what it reports."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgnotifier import Gap

from .accounting import Key, Ledger

SCRIPT = Path(__file__).with_name("listener.py")
TIMEOUT = 90.0
"""Seconds to wait for an answer: each of two changes may wait 30 s for a connection."""


class ListenerFailedError(RuntimeError):
    """The process has ended, doesn't answer, or answers with an error."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that the process uses.

    Attributes:
        resident: Resident memory, in MB.
        threads: The number of threads.
        files: The number of open file descriptors.
    """

    resident: float
    threads: int
    files: int


class ListenerProcess:
    """Runs the listener during the `with` block. A thread records what it reports."""

    def __init__(self, dsn: str, broker: str, ledger: Ledger) -> None:
        self._command = [sys.executable, str(SCRIPT), dsn, broker]
        self._ledger = ledger
        self._replies: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the block
        self._thread = threading.Thread(target=self._read, name="listener", daemon=True)

    def ask(self, verb: str, *arguments: object) -> Any:
        """Send a command, and return its result.

        Raises:
            ListenerFailedError: The command raised, or the process doesn't answer.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([verb, *arguments]).encode() + b"\n")
            self._process.stdin.flush()
            outcome, value = self._replies.get(timeout=TIMEOUT)
        except (queue.Empty, BrokenPipeError) as exc:
            raise ListenerFailedError(f"{verb}: no answer within {TIMEOUT:g} s") from exc
        if outcome == "failed":
            raise ListenerFailedError(f"{verb} raised {value}")
        return value

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Suspend the process, as a debugger or a machine without memory would."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def usage(self) -> Usage:
        """Return the resources that the process uses, as shown in /proc."""
        proc = Path(f"/proc/{self._process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return Usage(
            resident=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            threads=len(list((proc / "task").iterdir())),
            files=len(list((proc / "fd").iterdir())),
        )

    def log(self, lines: int) -> str:
        """Return the end of the process's log."""
        # No seek(): the process shares the position of this descriptor.
        log = self._log.fileno()
        text = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C then reaches only the parent, which ends this process
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._log.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._enter(*json.loads(line))
            except Exception as exc:  # noqa: BLE001 - a line cut short by SIGKILL, or a defect
                self._ledger.offend("defect", f"{exc!r} at {line!r:.200}")

    def _enter(self, what: str, *values: Any) -> None:
        match what:
            case "called":
                channel, sender, number = values
                self._ledger.deliver("callback", Key(sender, number), channel)
            case "gap":
                self._ledger.add_gap(parse_gap(*values))
            case "adding" | "removed":
                self._ledger.mark_removed(*values, removed=what == "removed")
            case "error":
                self._ledger.offend("error", *values)
            case _:
                self._replies.put((what, *values))


def parse_gap(written: dict[str, Any]) -> Gap:
    """Return a gap that was written by `Gap.to_dict()`."""
    return Gap(
        datetime.fromisoformat(written["since"]),
        datetime.fromisoformat(written["until"]),
        frozenset(written["channels"]),
        written["reason"],
    )
