"""Restart the listener when code changes, and still deliver what was received before.

Django's own `run_with_reloader` kills its child when it is stopped, and exits in the middle of the
work when code changes. Here the child listens in its main thread. When the parent is stopped, or
when code changes, the child delivers what was received before it exits.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from django.utils import autoreload

from pgnotifier.cli import foreground

CHANGED = 3
"""The exit code for changed code, as in Django."""

_PIPE = "PGNOTIFIER_RELOADER_PIPE"
"""The environment variable with the descriptor of the pipe that closes when the parent ends."""


def run_with_reloader(listen: Callable[[Any], int], options: Any) -> int:
    """Listen in a process that is replaced when code changes; return the exit code.

    Args:
        listen: Listens until SIGTERM or SIGINT, delivers the rest, and returns the exit code.
        options: The argument of `listen`.
    """
    if os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
        return _Parent().run()
    return _Child(listen, options).run()


class _Parent:
    """Starts the child, and ends it by closing a pipe.

    The pipe is closed even if this process is killed, so that the child never outlives it.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._signals = 0
        self._signalled_at = 0.0

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while True:
            code = self._run_once()
            if code != CHANGED or self._signals:
                return 0 if code == CHANGED else code

    def _run_once(self) -> int:
        reader, self._pipe = os.pipe()
        try:
            environment = {autoreload.DJANGO_AUTORELOAD_ENV: "true", _PIPE: str(reader)}
            self._child = subprocess.Popen(  # noqa: S603 - the same program again
                autoreload.get_child_arguments(),
                env={**os.environ, **environment},
                pass_fds=[reader],
            )
        finally:
            os.close(reader)
        if self._signals:  # they arrived while the child was being started
            self._end()
        code = self._child.wait()
        self._end()
        return code

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signals and monotonic() - self._signalled_at < foreground.SAME:
            return
        self._signals += 1
        self._signalled_at = monotonic()
        self._end()
        if self._signals > 1 and self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)  # a second signal means to end at once

    def _end(self) -> None:
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)


class _Child:
    """Listens in the main thread, and watches the files and the parent in other threads.

    If there are several reasons to end, only the first one may reach `foreground.listen`, because a
    second signal makes it end at once. Ctrl-C, for example, is sent to both processes, and the
    parent passes it on as well. So the threads send SIGURG: its handler runs after those of
    pending signals.
    """

    def __init__(self, listen: Callable[[Any], int], options: Any) -> None:
        self._listen = listen
        self._options = options
        self._ending = threading.Event()
        self._has_changed = False

    def run(self) -> int:
        autoreload.ensure_echo_on()
        signal.signal(signal.SIGTERM, self._leave)
        signal.signal(signal.SIGURG, self._pass_on)
        for run in (self._watch_files, self._watch_parent):
            threading.Thread(target=run, name=f"pgnotifier{run.__name__}", daemon=True).start()
        code = self._listen(self._options)
        if code:
            # It failed. Wait for a change of the code, which may fix that.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._ending.set())
            self._ending.wait()
        return CHANGED if self._has_changed else code

    def _leave(self, number: int, frame: Any) -> None:
        """Exit before `listen` has installed its own handler: nothing was received yet."""
        sys.exit(CHANGED if self._has_changed else 0)

    def _pass_on(self, number: int, frame: Any) -> None:
        """Call the handler of SIGTERM, unless a signal has arrived already."""
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler) and handler is not foreground._on_second_signal:
            handler(signal.SIGTERM, frame)

    def _watch_parent(self) -> None:
        pipe = int(os.environ[_PIPE])
        while os.read(pipe, 1):
            pass
        self._end()

    def _watch_files(self) -> None:
        reloader = autoreload.get_reloader()
        while True:
            try:
                reloader.run(threading.main_thread())
            except autoreload.WatchmanUnavailable:
                reloader = autoreload.StatReloader()
            except SystemExit:  # Django's reloader raises it when a file has changed
                break
        self._has_changed = True
        self._end()

    def _end(self) -> None:
        self._ending.set()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)
