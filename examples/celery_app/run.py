"""Run the whole example with one command, which starts its own servers: `python run.py`."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pgnotifier.testing import Command, postgres_server, valkey_server

HERE = Path(__file__).parent
DONE = "10 of 10 orders invoiced, 10 audited\n5 of 5 images resized\n"
TIMEOUT = 60  # seconds

with postgres_server() as dsn, valkey_server() as url:
    env = {**os.environ, "SHOP_DSN": dsn, "SHOP_BROKER": url}

    def run(module: str) -> str:
        """Run a module of the shop, and return what it prints."""
        argv = [sys.executable, "-m", module]
        return subprocess.run(
            argv, cwd=HERE, env=env, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    print(run("shop.create"), end="")
    worker = Command(
        "celery -A shop worker --loglevel INFO --queues celery,images,low",
        env=env,
        directory=HERE,
        ready="ready.",
    )
    listener = Command("celery -A shop pgnotifier", env=env, directory=HERE, ready="listening")
    with worker, listener:
        print(run("shop.produce"), end="", flush=True)
        deadline = time.monotonic() + TIMEOUT
        while (report := run("shop.report")) != DONE:
            if time.monotonic() > deadline:
                sys.exit(f"after {TIMEOUT} s:\n{report}{worker.log}{listener.log}")
            time.sleep(0.5)
        print(report, end="")
