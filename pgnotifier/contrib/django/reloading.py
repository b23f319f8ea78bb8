"""Reloading: a listener that starts again when code changes, and still ends as any other does.

Django's own `run_with_reloader` kills its child when it is to end, and ends the process amid the
work when code changes. Here a parent passes on that it is to end, and the child, which listens in
its main thread, delivers what was received in either case.
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
"""The exit code of a child whose code has changed, as Django has it."""

_PIPE = "PGNOTIFIER_RELOADER_PIPE"
"""The descriptor in the child's environment that is at its end when the parent is."""


def run_with_reloader(listen: Callable[[Any], int], options: Any) -> int:
    """Listen in a process that is replaced when code changes; return the exit code.

    Args:
        listen: Listens until SIGTERM or SIGINT comes, delivers the rest, and returns the exit code.
        options: What it is given.
    """
    if os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
        return _Parent().run()
    return _Child(listen, options).run()


class _Parent:
    """Starts the child, and tells it to end by closing a pipe.

    The pipe is closed even if this process is killed, so that no child outlives it.
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
            self._child = subprocess.Popen(  # noqa: S603 - this program once more
                autoreload.get_child_arguments(),
                env={**os.environ, **environment},
                pass_fds=[reader],
            )
        finally:
            os.close(reader)
        if self._signals:  # while it was started
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
            self._child.send_signal(signal.SIGTERM)  # the second: at once

    def _end(self) -> None:
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)


class _Child:
    """Listens in the main thread, and watches files and the parent on others.

    Of several reasons to end, only the first may reach `foreground.listen`, for which a second
    signal means to end at once: Ctrl-C, say, is sent to both processes, and the parent passes it
    on. So these threads send SIGURG, whose handler runs after that of any signal that is pending.
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
            # It failed: the next change of the code may mend it.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._ending.set())
            self._ending.wait()
        return CHANGED if self._has_changed else code

    def _leave(self, number: int, frame: Any) -> None:
        """Leave before anything was received."""
        sys.exit(CHANGED if self._has_changed else 0)

    def _pass_on(self, number: int, frame: Any) -> None:
        """Do what SIGTERM does, unless a signal has come."""
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
            except SystemExit:  # how it says that something has changed
                break
        self._has_changed = True
        self._end()

    def _end(self) -> None:
        self._ending.set()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)
