"""Run the whole example with one command, which starts its own servers: `python run.py`."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pgnotifier.testing import Command, postgres_server, valkey_server

HERE = Path(__file__).parent
DONE = """\
10 of 10 orders invoiced
5 of 5 images resized
10 of 10 sales shipped, 0 shipments without a sale
"""
TIMEOUT = 60  # seconds

with postgres_server() as dsn, valkey_server() as url:
    env = {**os.environ, "STORE_DSN": dsn, "STORE_REDIS": url}

    def run(module: str) -> str:
        """Run a module of the store, and return what it prints."""
        argv = [sys.executable, "-m", module]
        return subprocess.run(
            argv, cwd=HERE, env=env, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    print(run("store.create"), end="")
    worker = Command(
        "rq worker --config store.worker", env=env, directory=HERE, ready="Listening on"
    )
    listener = Command(
        "pgnotifier listen store.notifications", env=env, directory=HERE, ready="listening"
    )
    with worker, listener:
        print(run("store.produce"), end="", flush=True)
        print(run("store.sell"), end="", flush=True)
        deadline = time.monotonic() + TIMEOUT
        while (report := run("store.report")) != DONE:
            if time.monotonic() > deadline:
                sys.exit(f"after {TIMEOUT} s:\n{report}{worker.log}{listener.log}")
            time.sleep(0.5)
        print(report, end="")
