"""Commands of Celery, RQ, Django and pgnotifier, as forks of a process that has imported them.

Importing Celery takes more than a second of CPU time, and the tests start hundreds of workers and
listeners. A fork runs what a new process would run: the same module or script as `__main__`, with
its own arguments, environment, directory and output, and with Python's regular shutdown.

Run as a script, this module is the process that forks, in the background. The processes of a test
run share it, by a socket in a directory that they share. It ends when the last one has left. It
gets requests, one line of JSON each, and answers in the same way:

- `{"argv", "cwd", "env", "out", "err"}`: start a command; the answer is its pid.
- `{"pid"}`: the answer is the exit code of that command, null while it runs.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from functools import partial
from pathlib import Path

BIN = Path(sys.executable).parent
MODULES = {
    "core": ("pgnotifier", "pgnotifier.cli"),  # which import none of the optional packages
    "celery": (
        *("celery.bin.celery", "celery.bin.worker", "celery.apps.worker"),
        *("celery.worker.components", "celery.worker.consumer", "celery.worker.strategy"),
        *("celery.worker.autoscale", "celery.worker.pidbox", "celery.concurrency.solo"),
        *("celery.concurrency.prefork", "celery.loaders.app", "celery.app.amqp"),
        *(
            "celery.app.events",
            "celery.app.builtins",
            "celery.events.state",
            "celery.fixups.django",
        ),
        *("celery.app.log", "celery.app.control", "celery.worker.consumer.delayed_delivery"),
        *("celery.backends.redis", "kombu.transport.redis", "kombu.transport.pyamqp"),
        *("pgnotifier.contrib.celery", "pgnotifier.contrib.celery.command"),
    ),
    "rq": (
        *("rq.cli", "rq.worker", "rq.worker_pool", "rq.scheduler"),
        *("pgnotifier.cli.command", "pgnotifier.cli.finding", "pgnotifier.cli.listing"),
        *("pgnotifier.contrib.rq", "pgnotifier.testing"),
    ),
    "django": (  # whatever needs no settings
        *("django.core.management.commands.check", "django.core.management.commands.migrate"),
        *("django.core.management.commands.makemigrations", "django.contrib.admin"),
        *("django.core.management.commands.showmigrations", "django.utils.autoreload"),
        *("django.contrib.auth.hashers", "django.contrib.auth.tokens", "django.views.debug"),
        *("django.contrib.messages.middleware", "django.contrib.sessions.middleware"),
        *("django.db.backends.postgresql.base", "django.db.backends.sqlite3.base"),
        *("django_tasks", "pgnotifier.cli.foreground", "pgnotifier.cli.tables"),
        *("pgnotifier.contrib.django", "pgnotifier.contrib.django.reloading"),
    ),
    "tracing": (  # libraries that patch what is imported later, as a Celery app imports them
        *("celery.bin.celery", "celery.app.amqp", "celery.backends.redis", "pytest"),
        *("kombu.transport.redis", "pgnotifier.contrib.celery", "sentry_sdk"),
        *("sentry_sdk.transport", "opentelemetry.sdk.trace", "opentelemetry.propagate"),
        "opentelemetry.sdk.trace.export.in_memory_span_exporter",
        # What both import at their start, without the integrations with Celery.
        *("opentelemetry.instrumentation.instrumentor", "opentelemetry.semconv.trace"),
        *("sentry_sdk.integrations.asyncpg", "sentry_sdk.integrations.django"),
        *("sentry_sdk.integrations.fastapi", "sentry_sdk.integrations.redis"),
        *("sentry_sdk.integrations.rq", "sentry_sdk.integrations.threading"),
    ),
}
"""What is imported for each kind of command; modules that don't exist are skipped."""
FLAGS = {"core": ("-W", "error")}
"""Python's own flags for the commands of a kind."""
PR_SET_PDEATHSIG = 1


class _Group:
    def kill_group(self):
        """Kill it and its children, even if it has ended before them."""
        self.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Cold(_Group, subprocess.Popen):
    """A command that runs in a new process, in its own session."""

    def __init__(self, argv, *, log, **options):
        with Path(log).open("ab") as output:
            super().__init__(argv, stdout=output, stderr=output, start_new_session=True, **options)


class Forked(_Group):
    """A command that runs as a fork, in its own session, with `subprocess.Popen`'s interface."""

    def __init__(self, ask, **request):
        self._ask = ask
        self.returncode = None
        self.pid = ask(request)

    def poll(self):
        """Return the exit code, negative after a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask({"pid": self.pid})
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end, and return the exit code."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Preforked:
    """Starts commands; as a context manager, it ends those that still run.

    Args:
        directory: Where the sockets are of the processes that fork. What uses the same directory
            shares them.
    """

    def __init__(self, directory):
        self._directory = directory
        self._forking = {}
        self._lock = threading.Lock()

    def start(self, argv, *, cwd, env, log):
        """Start a command, in a fork if possible; its output is appended to a file.

        Args:
            argv: The command: `python -m celery …` or `python -m django …`, or the path of RQ's or
                pgnotifier's script.
            cwd: The directory in which it runs.
            env: All of its environment variables.
            log: The path of the file for its output.
        """
        argv = [*map(str, argv)]
        if not _is_at_home(argv, env):
            return Cold(argv, cwd=cwd, env=env, log=log)
        if _is_module(argv):
            return self.fork(argv[2], argv[1:], cwd=cwd, env=env, log=log)
        return self.fork("rq", argv, cwd=cwd, env=env, log=log)

    def start_traced(self, argv, **options):
        """Start `python -m celery …` for an app that first imports libraries for tracing."""
        return self.fork("tracing", [*argv][1:], **options)

    def fork(self, kind, argv, *, cwd, env, log, errors=None):
        """Start `-m module`, `-c code` or a script in a fork of a process of that kind.

        Its output is appended to the file `log`, or what it writes to stderr to the file `errors`.
        """
        request = {"argv": argv, "cwd": str(cwd), "env": env, "out": str(log)}
        return Forked(partial(self._ask, kind), **request, err=str(errors or log))

    def run(self, kind, argv, *, env, cwd="/", timeout=60):
        """Run it to its end, as `subprocess.run(…, capture_output=True, text=True)` does."""
        with tempfile.TemporaryDirectory() as directory:
            out, err = Path(directory, "out"), Path(directory, "err")
            forked = self.fork(kind, argv, cwd=cwd, env=env, log=out, errors=err)
            try:
                code = forked.wait(timeout)
            except subprocess.TimeoutExpired:
                forked.kill_group()
                raise
            return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())

    def _ask(self, kind, request):
        with self._lock:
            if kind not in self._forking:
                self._forking[kind] = self._connect(kind)
            _send(self._forking[kind], request)
            return _receive(self._forking[kind])

    def _connect(self, kind):
        connection = socket.socket(socket.AF_UNIX)
        with _in_directory(self._directory) as directory:
            try:
                connection.connect(f"{directory}/{kind}")
            except (FileNotFoundError, ConnectionRefusedError):
                # Celery reads the first when it is imported; Django must find no settings.
                env = {**os.environ, "C_FORCE_ROOT": "1"}
                env.pop("DJANGO_SETTINGS_MODULE", None)
                # Unbuffered, so that what a command prints is in its log at once.
                python = [sys.executable, "-u", "-P", *FLAGS.get(kind, ())]
                argv = [*python, __file__, kind, self._directory]
                # It returns once there is a socket.
                subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, check=True)
                connection.connect(f"{directory}/{kind}")
        return connection

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for forking in self._forking.values():
            forking.close()


def _send(connection, message):
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection):
    """Return the next message; raise EOFError if the other side has left."""
    line = b""
    while not line.endswith(b"\n"):  # only one message at a time is under way
        if not (more := connection.recv(65536)):
            raise EOFError
        line += more
    return json.loads(line)


@contextlib.contextmanager
def _in_directory(directory):
    """Yield a short path of a directory, for names of sockets, while nobody else is here."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def _is_module(argv):
    return argv[1:3] in (["-m", "celery"], ["-m", "django"])


def _is_at_home(argv, env):
    """Return whether a command can run in a fork: it doesn't patch or configure Python itself."""
    known = argv[0] in (str(BIN / "rq"), str(BIN / "pgnotifier")) or _is_module(argv)
    patches = {"gevent", "eventlet"} & {*argv}
    sets = {
        name
        for name, value in env.items()
        if name.startswith(("PYTHON", "LC_", "LANG", "TZ")) and os.environ.get(name) != value
    }
    return known and not patches and not sets - {"PYTHONPATH", "PYTHONUNBUFFERED"}


# --- the process that forks ---


def open_socket(kind, directory):
    """Return a socket for requests, and go on in the background."""
    listener = socket.socket(socket.AF_UNIX)
    # The client that has started this process has the lock.
    opened = os.open(directory, os.O_RDONLY)
    path = f"/proc/self/fd/{opened}/{kind}"
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    listener.bind(path)
    listener.listen()
    os.close(opened)
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests' processes
    return listener


def serve(listener, kind, directory):
    """Answer requests until all clients have left; in a fork, return what it has to run."""
    started = {}  # the pids, by client
    while started or not _close(listener, kind, directory):
        readable, _, _ = select.select([listener, *started], [], [])
        for client in readable:
            if client is listener:
                started[listener.accept()[0]] = set()
                continue
            try:
                request = _receive(client)
            except (EOFError, ConnectionResetError):
                _end(started.pop(client))
                client.close()
                continue
            if "pid" in request:
                answer = _look(request["pid"])
            elif answer := os.fork():
                started[client].add(answer)
            else:
                for one in (listener, *started):
                    one.close()
                return _settle_in(**request)
            with contextlib.suppress(BrokenPipeError):
                _send(client, answer)
    os._exit(0)


def _close(listener, kind, directory):
    """Close the socket, unless a client has just come; return whether it is closed."""
    # While a client connects, it has the lock.
    with contextlib.suppress(FileNotFoundError), _in_directory(directory) as directory:
        if select.select([listener], [], [], 0)[0]:
            return False
        Path(directory, kind).unlink()
    listener.close()
    return True


def _end(pids):
    """Kill what still runs of a client that has left."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if _look(pid) is None:
                os.killpg(pid, signal.SIGKILL)


def _look(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _settle_in(argv, cwd, env, out, err):
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup makes us ignore it
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for target, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, append), (2, err, append)):
        source = os.open(path, flags, 0o666)
        os.dup2(source, target)
        os.close(source)
    is_script = argv[0] not in ("-m", "-c")
    first = str(Path(argv[0]).parent) if is_script else cwd
    sys.path[:0] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        return _run_code, argv[1]
    sys.argv = argv if is_script else argv[1:]
    return (runpy.run_path if is_script else partial(runpy.run_module, alter_sys=True)), sys.argv[0]


def _run_code(code, run_name):
    # In a module that stays, as `python -c` has it: what it starts may go on after its last line.
    main = sys.modules[run_name] = types.ModuleType(run_name)
    exec(compile(code, "<string>", "exec"), vars(main))


def main():
    """Import the modules of a kind, answer requests, and run a command in each fork."""
    kind, directory = sys.argv[1:]
    listener = open_socket(kind, directory)
    for name in MODULES[kind]:
        with contextlib.suppress(ImportError):  # in an extra, or in another version
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the forks' garbage collector skips all this
    run, what = serve(listener, kind, directory)
    run(what, run_name="__main__")


if __name__ == "__main__":
    main()
