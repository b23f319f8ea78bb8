"""The parent's end of the process under test."""

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
"""Seconds that an answer may take: a change waits 30 s for a connection, each of two."""


class ListenerFailedError(RuntimeError):
    """The process has ended, gives no answer, or an answer that mustn't be."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process takes of the machine.

    Attributes:
        resident: Memory, in MB.
        threads: How many.
        files: Open descriptors.
    """

    resident: float
    threads: int
    files: int


class ListenerProcess:
    """Runs the listener for as long as the `with` block; a thread enters what it tells."""

    def __init__(self, dsn: str, broker: str, ledger: Ledger) -> None:
        self._command = [sys.executable, str(SCRIPT), dsn, broker]
        self._ledger = ledger
        self._replies: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the block
        self._thread = threading.Thread(target=self._read, name="listener", daemon=True)

    def ask(self, verb: str, *arguments: object) -> Any:
        """Have it do something, and return the result.

        Raises:
            ListenerFailedError: It raised, or it doesn't answer.
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
        """Keep it from running, as a debugger or a machine without memory would."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def usage(self) -> Usage:
        """Return what it takes, as /proc has it."""
        proc = Path(f"/proc/{self._process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return Usage(
            resident=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            threads=len(list((proc / "task").iterdir())),
            files=len(list((proc / "fd").iterdir())),
        )

    def log(self, lines: int) -> str:
        """Return the end of what it has logged."""
        # Not seek(): the process writes where this file object's descriptor is.
        log = self._log.fileno()
        text = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends it
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
            case "heard":
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


def parse_gap(told: dict[str, Any]) -> Gap:
    """Return a gap that was written by `Gap.to_dict()`."""
    return Gap(
        datetime.fromisoformat(told["since"]),
        datetime.fromisoformat(told["until"]),
        frozenset(told["channels"]),
        told["reason"],
    )
