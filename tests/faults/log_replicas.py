"""Replicas with durable subscriptions, to be broken; run as a process of its own.

Arguments: a directory, the URL of a Celery broker or nothing, and the sizes of `Sizes`. Each line
of standard input is a command in JSON:

    ["start", number, dsn, settings, lines, entries]
        start a replica, which dies after so many lines or entries, if that isn't 0
    ["signal", number, signal]
        send it a signal
    ["look"]
        do nothing

The answer to each is a line with the numbers and exit codes of replicas that have died since the
last one. A replica is a child process with a notifier of its own, so it starts within milliseconds.
What its callbacks get is appended to a file for each subscription before they return, so a replica
that is killed loses nothing of that. With a broker, tasks are put into a queue for each
subscription instead. At the end of the input, all replicas are killed.
"""

import gc
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import pgnotifier
from pgnotifier import Notifier, ThreadDispatcher
from pgnotifier._durable.reading import Sizes
from pgnotifier._runtime.backoff import Backoff

NAMES = ("one", "two", "three")
IMPORTED_LATE = ("pgnotifier.contrib.celery", "kombu.transport.redis")
"""What each replica that sends tasks would have to import."""
TRACED = tuple(
    str(Path(pgnotifier.__file__).parent / one)
    for one in ("_durable", "_delivery", "dispatchers", "_log", "contrib")
)


def main():
    """Do what the input says, until it ends."""
    directory, broker, *sizes = sys.argv[1:]
    dispatch = partial(to_broker, broker) if broker else partial(to_files, Path(directory))
    made = Sizes(*map(int, sizes))
    Sizes.of = classmethod(lambda cls, dispatcher: made)
    Backoff.FIRST, Backoff.LAST = 0.02, 0.1
    running = {}
    for name in IMPORTED_LATE if broker else ():
        import_module(name)
    gc.freeze()
    for line in iter(sys.stdin.readline, ""):
        verb, *values = json.loads(line)
        if verb == "start":
            number, *how = values
            running[number] = os.fork()
            if not running[number]:
                serve(dispatch, number, *how)
        elif verb == "signal":
            number, what = values
            if number in running:
                os.kill(running[number], what)
                if what == signal.SIGKILL:
                    os.waitid(os.P_PID, running[number], os.WEXITED | os.WNOWAIT)
        sys.stdout.write(f"{json.dumps(bury(running))}\n")
        sys.stdout.flush()
    for pid in running.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def bury(running):
    """Forget replicas that have died, and return their numbers and exit codes."""
    dead = []
    for number, pid in [*running.items()]:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            dead.append((number, os.waitstatus_to_exitcode(status)))
            del running[number]
    return dead


def serve(dispatch, number, dsn, settings, lines, entries):
    """Be a replica."""
    os.close(0)
    os.close(1)
    random.seed(number)
    if lines:
        die_after(lines)
    begin(Notifier(dsn, wait=True, **settings), dispatch(number, entries))
    while True:
        signal.pause()


def begin(notifier, subscriptions):
    """Subscribe and start."""
    for name, (fn, options) in subscriptions.items():
        how = {"autorun": False, "durable": True, "start": "oldest", **options}
        notifier.subscribe(name, "orders", fn, **how)
    notifier.start()


def to_files(directory, number, entries):
    """Return a callback and options for each subscription.

    Args:
        directory: Where the files are.
        number: The replica's number, which is written to them.
        entries: After how many entries to die, if that isn't 0.
    """
    appending = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    files = {name: os.open(directory / name, appending) for name in NAMES}
    left = itertools.count(entries - 1, -1)

    def record(name, channel, payload, pid):
        if random.random() < 0.02:  # so that batches are often under way when something breaks
            time.sleep(0.01)
        os.write(files[name], f"{' '.join(map(str, payload))} {number}\n".encode())
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    first, *others = NAMES
    return {first: (record, {"dispatcher": ThreadDispatcher()})} | {
        name: (record, {}) for name in others
    }


def to_broker(broker, number, entries):
    """Return a task and options for each subscription."""
    from celery import Celery

    from pgnotifier.contrib.celery import CeleryDispatcher

    app = Celery("log", broker=broker, set_as_current=False)

    @app.task
    def record(name, channel, payload, pid):
        """Do nothing: there are no workers."""

    dispatcher = CeleryDispatcher(app)
    return {name: (record, {"dispatcher": dispatcher, "queue": name}) for name in NAMES}


def die_after(lines):
    """Kill this process once its threads have executed that many lines of what is tested."""
    left = lines

    def trace(frame, event, _):
        nonlocal left
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


if __name__ == "__main__":
    main()
