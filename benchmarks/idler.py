"""A listener that reports how much memory its process uses, with nothing else loaded."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
from children import end_with_parent, write_message
from names import OURS

STATM = Path("/proc/self/statm")


def receive(name: str, dsn: str, lot: int) -> None:
    """Report how much memory is in use: at the start, and after each lot of notifications."""
    end_with_parent()
    if name != OURS:
        connection = psycopg.connect(dsn, autocommit=True)
        connection.execute("LISTEN bench0")
        write_message(resident())
        threading.Event().wait()
    from pgnotifier import Notifier

    calls = threading.Semaphore(0)
    count = 0

    def callback(_id: object, _channel: str, _payload: Any, _pid: int) -> None:
        nonlocal count
        count += 1
        if count % lot == 0:
            calls.release()

    with Notifier(dsn) as notifier:
        notifier.subscribe("bench", "bench0", callback)
        while True:
            write_message(resident())
            calls.acquire()


def resident() -> float:
    """Return the resident memory, in MB."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    ps = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    return int(subprocess.run(ps, capture_output=True, check=True).stdout) * 1024 / 1e6


if __name__ == "__main__":
    receive(sys.argv[1], sys.argv[2], int(sys.argv[3]))
