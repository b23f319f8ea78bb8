"""Run the child processes of benchmarks, which report their results as lines of JSON."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
TIMEOUT = 120  # seconds


class Child:
    """A script of this directory that runs in a child process during the `with` block."""

    def __init__(
        self, script: str, *arguments: object, env: Mapping[str, str] | None = None
    ) -> None:
        self._name = " ".join(map(str, [script, *arguments]))
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that select() shows whether there is a line
            env=os.environ | (env or {}),
        )

    def read_message(self) -> Any:
        """Wait for the child's next message, and return it.

        Raises:
            RuntimeError: The child has ended, or takes too long.
        """
        output = self._process.stdout
        assert output is not None
        readable, *_ = select.select([output], [], [], TIMEOUT)
        line = output.readline() if readable else b""
        if not line:
            raise RuntimeError(f"{self._name} has ended, or sent no message within {TIMEOUT} s")
        return json.loads(line)

    def ask(self, message: str) -> Any:
        """Send a line to the child, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{message}\n".encode())
        return self.read_message()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


# --- in the child ---


def write_message(value: object) -> None:
    """Send a message to the parent."""
    print(json.dumps(value), flush=True)


def end_with_parent() -> None:
    """End this process when the parent ends, whatever the reason is."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def finish() -> None:
    """End this process with all its threads, because not all competitors can stop theirs."""
    sys.stdout.flush()
    os._exit(0)
