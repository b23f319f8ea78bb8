"""Processes that are killed, and come back."""

import gc
import itertools
import os
import random
import select
import signal
import sys
import time
from functools import partial


def kill_at_random(serve, ticks, seconds=None):
    """Run a function in a fork, kill that at a random moment, and begin again.

    A fork begins within milliseconds, as everything is imported. It goes on until the function
    returns, or this process gets SIGTERM: then the last fork is let live. The number of kills is
    printed.

    Args:
        serve: What is run. It has to open its own connections, and gets a function to call now and
            then: when it begins, or for each piece of work.
        ticks: After how many of these calls a fork is killed at most.
        seconds: How much longer it lives at most. Default: the time between two calls.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    gc.freeze()
    kills = 0
    while True:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.close(read)
            serve(partial(os.write, write, b"."))
            os._exit(0)
        os.close(write)
        if not _wait(read, random.randint(1, ticks), seconds):
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        kills += 1
    sys.stdout.write(f"{kills} kills\n")
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def _wait(read, ticks, seconds):
    """Wait until a fork is to be killed; return False if it isn't, as it or the killing has ended.

    Args:
        read: Where it writes a byte per call.
        ticks: How many to wait for.
        seconds: How long to wait then at most.
    """
    began = time.monotonic()
    for _ in range(ticks):
        while not select.select([read], [], [], 0.1)[0]:
            if signal.SIGTERM in signal.sigpending():
                return False
        if not os.read(read, 1):
            return False
    if seconds is None:
        seconds = (time.monotonic() - began) / ticks
    return not signal.sigtimedwait({signal.SIGTERM}, random.uniform(0, seconds))


def kill_at_each_line(prepare, step):
    """Run a function in a fork, kill that before one of its lines, and begin again.

    It ends when a fork has come to its end alive. The number of kills is printed.

    Args:
        prepare: What a fork does before. It returns the function.
        step: How many lines of Python later each fork is killed than the one before.
    """
    gc.freeze()
    for kills, line in enumerate(itertools.count(random.randrange(step), step)):
        child = os.fork()
        if not child:
            run = prepare()
            _die_before(line)
            run()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if (code := os.waitstatus_to_exitcode(status)) != -signal.SIGKILL:
            sys.stdout.write(f"{kills} kills in {line} lines\n")
            sys.exit(code)


def _die_before(line):
    """Have this process killed before so many lines more are executed in this thread."""

    def trace(frame, event, arg):
        nonlocal line
        if event == "line":
            line -= 1
            if line < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
