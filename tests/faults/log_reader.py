"""Replicas that read durable subscriptions and die at some line; run as a process of its own.

Arguments: the conninfo string, a directory, how many replicas, the names of the subscriptions. A
replica is a child process; whenever one has died, another one is forked. What they read is appended
to a file for each subscription. Once the file `stop` exists, they are all killed, this process
itself reads what is left. How many have died is in the file `deaths`.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable import log_session
from pgnotifier._log import positions
from pgnotifier.errors import ConnectionFailedError

sys.path.append(str(Path(__file__).parents[1]))
import log_position

BATCH = 40
TRACED = (__file__, log_position.__file__, log_session.__file__, positions.__file__)


def main():
    """Keep replicas running until the end."""
    dsn, directory, count, *names = sys.argv[1:]
    directory = Path(directory)
    running, deaths, dice = set(), 0, random.Random(7)
    while not (directory / "stop").exists():
        while len(running) < int(count):
            # Connecting and subscribing executes a hundred lines.
            lines = dice.choice([dice.randrange(1, 300), dice.randrange(1, 3000)])
            pid = os.fork()
            if not pid:
                die_after(lines)
                read(dsn, directory, names)
            running.add(pid)
        if dice.random() < 0.05:
            os.kill(dice.choice([*running]), signal.SIGKILL)
        time.sleep(0.005)
        deaths += bury(running)
        (directory / "deaths").write_text(str(deaths))
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    read(dsn, directory, names)


def bury(running):
    """Wait for children that have died, and return how many that were."""
    dead = {pid for pid in running if os.waitpid(pid, os.WNOHANG)[0]}
    running -= dead
    return len(dead)


def read(dsn, directory, names):
    """Read until there is nothing left to read."""
    while True:
        try:
            with Parameters(dsn).connect() as connection:
                if read_all(connection, directory, names):
                    return
        except (psycopg.OperationalError, ConnectionFailedError):
            time.sleep(0.05)  # the server is restarted


def read_all(connection, directory, names):
    """Go round the subscriptions; return True at the end."""
    known = {
        name: log_position.Position(positions.subscribe(connection, name, "orders"))
        for name in names
    }
    files = {
        name: os.open(directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for name in names
    }
    while True:
        stopping = (directory / "stop").exists()
        is_last = True
        for name, position in known.items():
            with connection.transaction():
                reading = position.read(connection, BATCH)
                if reading is None:
                    is_last = False
                    continue
                for entry in reading.entries:
                    os.write(files[name], f"{entry.id} {entry.payload}\n".encode())
                position.save(connection, reading)
            is_last &= reading.is_last
        if stopping and is_last:
            return True
        if is_last:
            time.sleep(0.002)


def die_after(lines):
    """Kill this process with SIGKILL once it has executed that many lines of what is tested."""
    left = lines

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


if __name__ == "__main__":
    main()
