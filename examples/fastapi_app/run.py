"""Run the whole example with one command, which starts its own server: `python run.py`.

With `--serve`, the board stays open for a browser until Ctrl-C.
"""

import contextlib
import json
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

from pgnotifier.testing import Command, postgres_server

HERE = Path(__file__).parent
ITEMS = ("a kettle", "a teapot", "two cups")
SERVES = "--serve" in sys.argv


def find_port() -> int:
    """Return a port for the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 8000 if SERVES else 0))
        return int(probe.getsockname()[1])


def order(url: str, item: str) -> None:
    """Place an order, as a browser or another program would."""
    request = urllib.request.Request(
        f"{url}/orders",
        data=json.dumps({"item": item}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


port = find_port()
url = f"http://127.0.0.1:{port}"
with postgres_server() as dsn:
    server = Command(
        f"uvicorn board.main:app --port {port} --timeout-graceful-shutdown 1",
        env={**os.environ, "BOARD_DSN": dsn},
        directory=HERE,
        ready="Uvicorn running",
    )
    with server, urllib.request.urlopen(f"{url}/events", timeout=60) as events:
        print("the board is open")
        seen: set[str] = set()  # an order may be sent twice; a page ignores the second, too
        for count, item in enumerate(ITEMS, 1):
            order(url, item)
            while len(seen) < count:
                name, _, data = events.readline().decode().strip().partition(": ")
                if name == "data" and data not in seen:
                    seen.add(data)
                    print(f"a browser was sent {data}", flush=True)
        if SERVES:
            print(f"Look at {url}; press Ctrl-C to end it", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
