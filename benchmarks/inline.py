"""How fast notifications reach callbacks in the process: `python benchmarks/inline.py`.

Three receivers are compared, each in a fresh process, taking turns:

    bare drain          psycopg's `consume_input()` / `notifies()` and `json.loads`, nothing else
    pgnotifier          the Notifier of this tree with its InlineDispatcher
    pgnotifier 0.0.10   the same script on the earlier release, fetched from the package index

Another process queues all notifications in one transaction. The clock runs from the end of that
COMMIT to the last callback, so that the receiver is what is timed. Every receiver calls the same
callback, which also adds up what was decoded.

The exit code is 1 if a floor is missed: 0.6 of the bare drain, 5 times 0.0.10.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from rounds import Rates, print_rates, print_ratio, take_turns

CHANNEL = "bench"
BARE, OURS, EARLIER = "bare drain", "pgnotifier", "pgnotifier 0.0.10"
FLOORS: Mapping[str, float] = {BARE: 0.6, EARLIER: 5.0}
RECEIVER_TIMEOUT = 120  # seconds


# --- a receiver, in a process of its own ---


class Callback:
    """What every receiver calls: counts, adds up, and tells when the last one was."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.count = 0
        self.total = 0
        self.finished_at = 0.0
        self.finished = threading.Event()

    def __call__(self, _id: object, _channel: str, payload: Any, _pid: int) -> None:  # noqa: D102
        self.count += 1
        self.total += payload["order"]
        if self.count == self.expected:
            self.finished_at = time.monotonic()
            self.finished.set()


def tell(value: object) -> None:
    print(json.dumps(value), flush=True)


def drain_bare(dsn: str, callback: Callback) -> None:
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute(f"LISTEN {CHANNEL}")
    pgconn = connection.pgconn
    tell("ready")
    while not callback.finished.is_set():
        select.select([pgconn.socket], [], [])
        pgconn.consume_input()
        while arrived := pgconn.notifies():
            channel = arrived.relname.decode()
            callback(CHANNEL, channel, json.loads(arrived.extra.decode()), arrived.be_pid)


def subscribe(dsn: str, callback: Callback) -> None:
    """Receive with whichever pgnotifier is first on the path; both have these two calls."""
    from pgnotifier import Notifier

    notifier = Notifier(conninfo_to_dict(dsn))
    notifier.subscribe(CHANNEL, CHANNEL, callback)
    tell("ready")
    callback.finished.wait()


def receive(name: str, dsn: str, expected: int) -> None:
    signal.alarm(RECEIVER_TIMEOUT)
    callback = Callback(expected)
    (drain_bare if name == BARE else subscribe)(dsn, callback)
    tell({"finished_at": callback.finished_at, "total": callback.total})
    os._exit(0)  # 0.0.10 has a thread that nothing ends


# --- the sender, and the comparison ---


def measure(name: str, dsn: str, expected: int, path: Path) -> float:
    """Return the rate of one receiver, in notifications per second.

    Args:
        name: Which one.
        dsn: The database.
        expected: How many notifications to send.
        path: Where the earlier release was unpacked.
    """
    env = os.environ | ({"PYTHONPATH": str(path)} if name == EARLIER else {})
    command = [sys.executable, __file__, "--receive", name, "--dsn", dsn, "-n", str(expected)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b'"ready"\n', f"{name} could not be started"
            committed_at = send(dsn, expected)
            told = process.stdout.readline()
        finally:
            process.kill()
    assert told, f"{name} had not received everything after {RECEIVER_TIMEOUT} s"
    result = json.loads(told)
    assert result["total"] == expected * (expected + 1) // 2, f"{name} lost or doubled something"
    return expected / (float(result["finished_at"]) - committed_at)


def send(dsn: str, count: int) -> float:
    """Queue notifications in one transaction; return when it was committed."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "SELECT count(pg_notify(%s, json_build_object("
            " 'order', n, 'item', 'tea', 'amount', 3, 'tags', json_build_array('new', 'paid'))"
            "::text)) FROM generate_series(1, %s) AS n",
            (CHANNEL, count),
        )
        connection.commit()
        # The clock of time.monotonic() is the machine's, the same in every process.
        return time.monotonic()


@contextmanager
def earlier_release() -> Iterator[Path | None]:
    """Fetch and unpack 0.0.10; yield its directory, or None without a package index."""
    with tempfile.TemporaryDirectory(prefix="pgnotifier-bench-") as directory:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--disable-pip-version-check", "--dest", directory, "pgnotifier==0.0.10"],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(directory).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            print(f"{EARLIER} is left out, pip can't fetch it: {done.stderr.strip()[-300:]}\n")
            yield None
            return
        unpacked = Path(directory, "unpacked")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked)
        yield unpacked


def compare(rounds: int, count: int) -> Rates:
    from pgnotifier.testing import PostgresServer

    with earlier_release() as path, PostgresServer() as server, server.database() as dsn:
        names = [BARE, OURS] + ([EARLIER] if path else [])
        return take_turns(names, rounds, lambda name: measure(name, dsn, count, path or Path()))


def report(rates: Rates) -> bool:
    """Print ratios and rates; return whether every floor is met."""
    met = [print_ratio(rates, OURS, name, floor) for name, floor in FLOORS.items() if name in rates]
    print_rates(rates)
    return all(met)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=100_000, help="notifications a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--receive", choices=[BARE, OURS, EARLIER], help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.receive:
        receive(given.receive, given.dsn, given.count)
    sys.exit(0 if report(compare(given.rounds, given.count)) else 1)


if __name__ == "__main__":
    main()
