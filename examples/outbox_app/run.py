"""Run the whole example with one command, which starts its own servers: `python run.py`."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from pgnotifier.testing import Command, ValkeyServer, postgres_server

HERE = Path(__file__).parent
DONE = """\
what happens              delay()             after commit  outbox
nothing                   invoiced            invoiced      invoiced
the card is refused       NO ORDER, INVOICED  no order      no order
kill -9 after the INSERT  no order            no order      no order
kill -9 before the COMMIT NO ORDER, INVOICED  no order      no order
kill -9 after the COMMIT  invoiced            LOST          invoiced
kill -9 of the relay      invoiced            invoiced      invoiced
kill -9 of the broker     no order            LOST          invoiced
orders without invoice    0                   2             0
invoices without order    2                   0             0
"""
TIMEOUT = 60  # seconds

with postgres_server() as dsn, ValkeyServer(persistent=True) as broker, ExitStack() as stack:
    env = {**os.environ, "MARKET_DSN": dsn, "MARKET_BROKER": broker.url}

    def run(module: str, *arguments: str) -> str:
        """Run a module of the market, and return what it prints."""
        argv = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            argv, cwd=HERE, env=env, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def start(command: str, ready: str) -> Command:
        """Start a command that is ended at the end of the example, unless it was killed."""
        return stack.enter_context(Command(command, env=env, directory=HERE, ready=ready))

    print(run("market.create"), end="", flush=True)
    worker = start("celery -A market worker --loglevel INFO --concurrency 1", "ready.")
    relay = start("celery -A market pgnotifier", "listening")
    run("market.place", "shop")
    relay.kill()
    run("market.place", "relay")
    broker.kill()
    run("market.place", "broker")
    broker.start()
    relay = start("celery -A market pgnotifier", "listening")
    deadline = time.monotonic() + TIMEOUT
    while (report := run("market.report")) != DONE:
        if time.monotonic() > deadline:
            sys.exit(f"after {TIMEOUT} s:\n{report}{worker.log}{relay.log}")
        time.sleep(0.5)
    print(report, end="")
